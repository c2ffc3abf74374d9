import assert from "node:assert/strict";
import test from "node:test";

import { choicesOf, problemOf } from "../devices.js";

/**
 * @param {MediaDeviceKind} kind
 * @param {string} deviceId
 * @param {string} [label]
 */
const info = (kind, deviceId, label = "") => ({ kind, deviceId, label });

test("real devices of a kind are offered, nameless ones with a number", () => {
  const all = [
    info("audioinput", "default", "Default - Headset"),
    info("audioinput", "communications", "Communications"),
    info("audioinput", "a", "Headset"),
    info("audioinput", "b"),
    info("videoinput", "c", "Camera"),
    info("audioinput", ""),
  ];
  assert.deepEqual(choicesOf("microphone", all, "Microphone"), [
    { id: "a", label: "Headset" },
    { id: "b", label: "Microphone 2" },
  ]);
  assert.deepEqual(choicesOf("camera", all, "Camera"), [{ id: "c", label: "Camera" }]);
  assert.deepEqual(choicesOf("loudspeaker", all, "Loudspeaker"), []);
});

test("what the browser throws has a meaning for the person", () => {
  /** @param {string} name */
  const problem = (name) => problemOf(new DOMException("", name));
  assert.equal(problem("NotAllowedError"), "blocked");
  assert.equal(problem("NotFoundError"), "missing");
  assert.equal(problem("OverconstrainedError"), "missing");
  assert.equal(problem("NotReadableError"), "busy");
  assert.equal(problem("TypeError"), "failed");
  assert.equal(problemOf("text"), "failed");
});
