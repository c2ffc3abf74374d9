import assert from "node:assert/strict";
import test from "node:test";

import { decodeBase64, encodeBase64, rms, toFloat, toInt16 } from "../pcm.js";

test("samples survive the way to the wire and back", () => {
  const samples = Int16Array.from([0, 1, -1, 32767, -32767, 12345]);
  assert.deepEqual(decodeBase64(encodeBase64(samples)), samples);
  assert.deepEqual(toInt16(toFloat(samples)), samples);
});

test("samples on the wire are little-endian", () => {
  assert.equal(encodeBase64(Int16Array.from([0x0201])), btoa("\u0001\u0002"));
});

test("long buffers are encoded whole", () => {
  const samples = Int16Array.from({ length: 50_000 }, (_, i) => i % 1000);
  assert.deepEqual(decodeBase64(encodeBase64(samples)), samples);
});

test("samples beyond full scale are clipped and not wrapped", () => {
  assert.deepEqual([...toInt16(Float32Array.from([2, -2]))], [32767, -32767]);
});

test("half a sample at the end is dropped", () => {
  assert.equal(decodeBase64(btoa("\u0001\u0002\u0003")).length, 1);
});

test("loudness of a full-scale sine is 3 dB below its peak, of nothing it is zero", () => {
  const sine = Float32Array.from({ length: 4800 }, (_, i) => Math.sin((2 * Math.PI * 100 * i) / 48000));
  assert.ok(Math.abs(rms(sine) - Math.SQRT1_2) < 1e-3);
  assert.equal(rms(new Float32Array(0)), 0);
});
