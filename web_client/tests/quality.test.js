import assert from "node:assert/strict";
import test from "node:test";

import { gradeOf, lossBetween, readCounters } from "../quality.js";

/** @type {import("../types.js").Quality} */
const NOTHING = { kind: "webrtc", rttMs: null, jitterMs: null, loss: null, bufferedBytes: null, underruns: null };

test("the worst figure decides", () => {
  assert.equal(gradeOf(null), 0);
  assert.equal(gradeOf(NOTHING), 0);
  assert.equal(gradeOf({ ...NOTHING, rttMs: 20, jitterMs: 4, loss: 0 }), 3);
  assert.equal(gradeOf({ ...NOTHING, rttMs: 20, jitterMs: 50, loss: 0 }), 2);
  assert.equal(gradeOf({ ...NOTHING, rttMs: 20, jitterMs: 4, loss: 0.2 }), 1);
  assert.equal(gradeOf({ ...NOTHING, kind: "websocket", bufferedBytes: 500_000 }), 1);
});

test("counters come from the nominated pair and the audio that arrives", () => {
  const counters = readCounters([
    { type: "candidate-pair", nominated: false, currentRoundTripTime: 9 },
    { type: "candidate-pair", nominated: true, currentRoundTripTime: 0.03 },
    { type: "inbound-rtp", kind: "video", jitter: 9 },
    { type: "inbound-rtp", kind: "audio", jitter: 0.004, packetsLost: 2, packetsReceived: 98, jitterBufferDelay: 50, jitterBufferEmittedCount: 1000 },
  ]);
  assert.deepEqual(counters, { rttMs: 30, jitterMs: 4, packetsLost: 2, packetsReceived: 98, bufferDelayMs: 50 });
});

test("loss is counted between two looks", () => {
  const before = { rttMs: null, jitterMs: null, packetsLost: 10, packetsReceived: 100, bufferDelayMs: null };
  assert.equal(lossBetween(before, { ...before, packetsLost: 15, packetsReceived: 195 }), 0.05);
  assert.equal(lossBetween(before, before), null);
});
