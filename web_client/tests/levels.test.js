import assert from "node:assert/strict";
import test from "node:test";

import { LevelHistory, meterValue, SliceClock } from "../levels.js";

test("a meter is empty at silence, full at loud speech, and even in decibels between", () => {
  assert.equal(meterValue(0), 0);
  assert.equal(meterValue(0.001), 0);
  assert.equal(meterValue(1), 1);
  const steps = [0.01, 0.02, 0.04].map(meterValue);
  assert.ok(Math.abs((steps[1] ?? 0) - (steps[0] ?? 0) - ((steps[2] ?? 0) - (steps[1] ?? 0))) < 1e-9);
});

test("a meter rises at once and falls gently", () => {
  const history = new LevelHistory();
  history.push(0.2, 20);
  const loud = history.meter;
  history.push(0, 40);
  assert.ok(history.meter < loud && history.meter > loud * 0.8);
});

test("history is bounded and keeps the newest", () => {
  const history = new LevelHistory();
  for (let i = 0; i < 7000; i += 1) history.push(0.1, i);
  assert.equal(history.samples.length, 6000);
  assert.equal(history.samples.at(-1)?.t, 6999);
});

test("slices that arrive in bunches get even times", () => {
  const clock = new SliceClock(20);
  const times = [1000, 1041, 1041, 1060, 1099, 1100].map((now) => clock.next(now));
  assert.deepEqual(times, [1000, 1020, 1040, 1060, 1080, 1100]);
});

test("a real pause moves the clock", () => {
  const clock = new SliceClock(20);
  clock.next(1000);
  assert.equal(clock.next(5000), 5000);
});
