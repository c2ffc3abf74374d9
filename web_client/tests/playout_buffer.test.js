import assert from "node:assert/strict";
import test from "node:test";

import { PlayoutBuffer } from "../playout_buffer.js";

const RATE = 1000;
const PRIME = 60;

/**
 * @param {number} length
 * @param {number} [value]
 */
const tone = (length, value = 0.5) => new Float32Array(length).fill(value);

/**
 * @param {PlayoutBuffer} buffer
 * @param {number} length
 */
function render(buffer, length) {
  const out = new Float32Array(length);
  buffer.render(out);
  return out;
}

test("nothing is heard until enough is there, then all of it in order", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(PRIME - 10, 0.25));
  assert.ok(render(buffer, 20).every((sample) => sample === 0));
  buffer.push("r", "i", tone(40, 0.75));
  const out = render(buffer, 90);
  assert.equal(out[20], 0.25);
  assert.equal(out[60], 0.75);
  assert.equal(buffer.position?.playedSamples, 90);
});

test("a short response that is complete plays at once", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(10));
  buffer.end("r");
  assert.equal(render(buffer, 20)[9], 0.5);
  assert.deepEqual(buffer.takeHappenings(), [
    { kind: "started", responseId: "r" },
    { kind: "stopped", responseId: "r" },
  ]);
});

test("the end of a response is told in the block in which it is heard", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(100));
  buffer.end("r");
  render(buffer, 100);
  assert.equal(buffer.takeHappenings().at(-1)?.kind, "stopped");
  assert.equal(buffer.position, null);
});

test("the position counts what was heard and not the silence of a gap", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(80));
  render(buffer, 200);
  assert.equal(buffer.position?.playedSamples, 80);
  assert.ok(buffer.takeHappenings().some((happening) => happening.kind === "underrun"));
  buffer.push("r", "i", tone(80));
  render(buffer, 80);
  assert.equal(buffer.position?.playedSamples, 160);
});

test("a flush is silent within its fade and says how much was heard", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(500));
  render(buffer, 100);
  assert.deepEqual(buffer.flush(), { responseId: "r", itemId: "i", playedSamples: 100 });
  const out = render(buffer, 50);
  assert.ok((out[0] ?? 0) > 0.3);
  assert.ok(out.subarray(5).every((sample) => sample === 0));
  assert.equal(buffer.waitingSamples, 0);
});

test("late sound of a cut response is refused, the next response is not", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("old", "i", tone(100));
  render(buffer, 50);
  buffer.flush();
  assert.equal(buffer.push("old", "i", tone(100)), false);
  assert.equal(buffer.push("new", "j", tone(100)), true);
  assert.equal(render(buffer, 50)[20], 0.5);
});

test("a flush with nothing playing cuts nothing", () => {
  const buffer = new PlayoutBuffer(RATE);
  assert.equal(buffer.flush(), null);
  assert.equal(buffer.push("r", "i", tone(100)), true);
});

test("the voice is lowered and raised without a step", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(900, 1));
  render(buffer, 100);
  buffer.setGain(0.2, 60);
  const down = render(buffer, 100);
  const steps = down.subarray(1).map((sample, i) => Math.abs(sample - (down[i] ?? 0)));
  assert.ok(Math.max(...steps) < 0.03);
  assert.ok(Math.abs((down[99] ?? 0) - 0.2) < 1e-6);
  buffer.setGain(1, 120);
  assert.equal(render(buffer, 200)[199], 1);
});

test("a flush ends the lowering", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(200, 1));
  render(buffer, 50);
  buffer.setGain(0.2, 0);
  buffer.flush();
  render(buffer, 50);
  buffer.push("s", "j", tone(200, 1));
  assert.equal(render(buffer, 100)[50], 1);
});

test("two responses in a row are told apart", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("a", "i", tone(70));
  buffer.end("a");
  buffer.push("b", "j", tone(70));
  render(buffer, 140);
  assert.deepEqual(
    buffer.takeHappenings().map((happening) => happening.kind),
    ["started", "stopped", "started"],
  );
  assert.deepEqual(buffer.position, { responseId: "b", itemId: "j", playedSamples: 70 });
});

test("a response whose end is told after it ran dry still ends", () => {
  const buffer = new PlayoutBuffer(RATE);
  buffer.push("r", "i", tone(80));
  render(buffer, 200);
  buffer.end("r");
  assert.equal(buffer.takeHappenings().at(-1)?.kind, "stopped");
});

test("sound without end is refused at the limit", () => {
  const buffer = new PlayoutBuffer(RATE);
  assert.equal(buffer.push("r", "i", tone(120_000)), true);
  assert.equal(buffer.push("r", "i", tone(1)), false);
});
