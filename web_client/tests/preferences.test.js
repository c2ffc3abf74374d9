import assert from "node:assert/strict";
import test from "node:test";

import { readPreferences } from "../preferences.js";

test("nothing stored, or nonsense, gives the defaults", () => {
  const defaults = readPreferences(null);
  assert.equal(defaults.transport, "webrtc");
  assert.equal(defaults.policy, "guarded");
  for (const stored of ["", "{", "null", "[]", "3", '{"transport":"pigeon","policy":7}']) {
    assert.deepEqual(readPreferences(stored), defaults);
  }
});

test("what was chosen comes back, what is unknown does not", () => {
  const read = readPreferences(JSON.stringify({ transport: "websocket", microphone: "abc", extra: "x" }));
  assert.equal(read.transport, "websocket");
  assert.equal(read.microphone, "abc");
  assert.ok(!("extra" in read));
});
