import assert from "node:assert/strict";
import test from "node:test";

import { rms } from "../pcm.js";
import { StreamResampler } from "../resample.js";

/**
 * @param {number} hz
 * @param {number} rate
 * @param {number} seconds
 */
function sine(hz, rate, seconds) {
  return Float32Array.from({ length: Math.round(rate * seconds) }, (_, i) => Math.sin((2 * Math.PI * hz * i) / rate));
}

/**
 * @param {StreamResampler} resampler
 * @param {Float32Array} input
 * @param {number} block
 */
function inBlocks(resampler, input, block) {
  /** @type {number[]} */
  const out = [];
  for (let at = 0; at < input.length; at += block) out.push(...resampler.push(input.subarray(at, at + block)));
  return Float32Array.from(out);
}

for (const rate of [44100, 48000, 16000]) {
  test(`a tone at ${rate} Hz keeps its pitch and loudness at 24000 Hz`, () => {
    const out = inBlocks(new StreamResampler(rate, 24000), sine(1000, rate, 0.5), 128);
    const middle = out.subarray(2000, 10_000);
    const wanted = sine(1000, 24000, 1);
    let best = Infinity;
    for (let shift = 0; shift < 24; shift += 1) {
      const error = rms(middle.map((sample, i) => sample - (wanted[i + shift] ?? 0)));
      best = Math.min(best, error);
    }
    assert.ok(Math.abs(rms(middle) - Math.SQRT1_2) < 0.005);
    assert.ok(best < 0.15);
  });

  test(`blocks of any size give the same stream as one piece at ${rate} Hz`, () => {
    const input = sine(440, rate, 0.2);
    const whole = new StreamResampler(rate, 24000).push(input);
    const pieces = inBlocks(new StreamResampler(rate, 24000), input, 37);
    assert.equal(pieces.length, whole.length);
    assert.ok(pieces.every((sample, i) => Math.abs(sample - (whole[i] ?? 0)) < 1e-6));
  });

  test(`no sample is lost or made in 10 s at ${rate} Hz`, () => {
    const resampler = new StreamResampler(rate, 24000);
    let count = 0;
    for (let block = 0; block < 10 * 100; block += 1) count += resampler.push(new Float32Array(rate / 100)).length;
    assert.ok(Math.abs(count - 10 * 24000) <= 64);
  });
}

test("what would fold back is filtered out", () => {
  const out = new StreamResampler(48000, 24000).push(sine(17_000, 48000, 0.5));
  assert.ok(rms(out.subarray(1000, 10_000)) < 0.001);
});

test("equal rates pass samples through", () => {
  const input = sine(300, 24000, 0.01);
  assert.deepEqual(new StreamResampler(24000, 24000).push(input), input);
});
