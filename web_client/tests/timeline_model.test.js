import assert from "node:assert/strict";
import test from "node:test";

import { COLUMN_MS, overlaps, TimelineModel } from "../timeline_model.js";

test("both sides share columns of time, each with its loudest slice", () => {
  const timeline = new TimelineModel();
  timeline.push("user", 0.2, 0);
  timeline.push("user", 0.6, COLUMN_MS - 1);
  timeline.push("model", 0.5, COLUMN_MS - 1);
  timeline.push("model", 0.1, COLUMN_MS);
  assert.deepEqual(timeline.columns.get(0), { user: 0.6, model: 0.5, speech: false, ducked: false });
  assert.equal(timeline.columns.get(1)?.model, 0.1);
});

test("overlap is where both are heard", () => {
  const timeline = new TimelineModel();
  timeline.push("user", 0.5, 0);
  timeline.push("model", 0.5, 0);
  timeline.push("user", 0.5, COLUMN_MS);
  timeline.push("model", 0.05, COLUMN_MS);
  assert.deepEqual([0, 1].map((index) => overlaps(timeline.column(index))), [true, false]);
});

test("columns remember that the voice was lowered and speech recognised", () => {
  const timeline = new TimelineModel();
  timeline.speech = true;
  timeline.ducked = true;
  timeline.push("user", 0.5, 0);
  timeline.speech = false;
  timeline.ducked = false;
  timeline.push("user", 0.5, 1);
  assert.deepEqual(timeline.columns.get(0), { user: 0.5, model: 0, speech: true, ducked: true });
});

test("columns and marks that have scrolled away are forgotten", () => {
  const timeline = new TimelineModel();
  timeline.mark({ kind: "interrupted", atMs: 0 });
  for (let index = 0; index < 2000; index += 1) timeline.push("user", 0.1, index * COLUMN_MS);
  assert.equal(timeline.columns.size, 1500);
  assert.deepEqual(timeline.marks, []);
});
