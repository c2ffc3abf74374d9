import assert from "node:assert/strict";
import test from "node:test";

import { TrackProgress } from "../track_progress.js";

test("before the first packet nothing is known", () => {
  assert.equal(new TrackProgress().playedMs, null);
});

test("played is what lies between the first packet's beginning and the newest one's end", () => {
  const progress = new TrackProgress();
  for (const timestamp of [96_000, 96_960, 97_920]) progress.note(timestamp);
  assert.equal(progress.playedMs, 60);
  progress.note(97_920); // the server is silent
  assert.equal(progress.playedMs, 60);
});

test("timestamps wrap", () => {
  const progress = new TrackProgress();
  progress.note(2 ** 32 - 480);
  progress.note(480);
  assert.equal(progress.playedMs, 40);
});
