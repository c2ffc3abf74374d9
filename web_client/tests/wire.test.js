import assert from "node:assert/strict";
import test from "node:test";

import { cameraStill, decodeServerEvent, sessionUpdate, typedMessage } from "../wire.js";

/** @param {unknown} event */
const decode = (event) => decodeServerEvent(JSON.stringify(event));

test("what cannot be read or is not known is never an exception", () => {
  for (const message of ["", "{", "null", "[]", "7", '"x"', "{}", '{"type":7}']) {
    assert.equal(decodeServerEvent(message).type, "other");
  }
  assert.deepEqual(decode({ type: "rate_limits.updated" }), { type: "other", name: "rate_limits.updated" });
  assert.deepEqual(decode({ type: "toString" }), { type: "other", name: "toString" });
});

test("fields of the wrong type become empty ones", () => {
  assert.deepEqual(decode({ type: "input_audio_buffer.speech_started", item_id: 3, audio_start_ms: "x" }), {
    type: "input_audio_buffer.speech_started",
    item_id: "",
    audio_start_ms: 0,
  });
  assert.deepEqual(decode({ type: "response.done", response: null }), {
    type: "response.done",
    response_id: "",
    status: "",
    reason: "",
    detail: "",
  });
});

test("the session's facts come from its capabilities", () => {
  const event = decode({
    type: "session.created",
    session: { id: "s", model: "m", capabilities: { examples: ["a", 3, "b"], transcribes: true, languages: ["en"] } },
  });
  assert.deepEqual(event, {
    type: "session.created",
    session: { id: "s", model: "m", examples: ["a", "b"], transcribes: true, languages: ["en"] },
  });
});

test("a text delta knows where it is spoken, or that nobody said so", () => {
  const event = { type: "response.output_audio_transcript.delta", response_id: "r", item_id: "i", delta: "hi" };
  assert.deepEqual(decode({ ...event, audio_start_ms: 0 }), { ...event, audio_start_ms: 0 });
  assert.deepEqual(decode(event), { ...event, audio_start_ms: null });
});

test("a cancelled response says why", () => {
  const response = { id: "r", status: "cancelled", status_details: { reason: "turn_detected" } };
  const event = decode({ type: "response.done", response });
  assert.deepEqual(event, { type: "response.done", response_id: "r", status: "cancelled", reason: "turn_detected", detail: "" });
});

test("the session is asked for extensions, the policy and the language", () => {
  const { session } = /** @type {any} */ (sessionUpdate("guarded", "zh"));
  assert.deepEqual(session.extra_body, { duplex_events: ["overlap", "playback", "limits"], interruption: "guarded", language: "zh" });
  assert.deepEqual(session.audio.input.turn_detection, { type: "semantic_vad" });
  assert.equal(/** @type {any} */ (sessionUpdate("push_to_talk", "en")).session.audio.input.turn_detection, null);
});

test("a typed message is an item and a request to answer it", () => {
  assert.deepEqual(typedMessage("item_1", "hi").map((event) => event.type), ["conversation.item.create", "response.create"]);
});

test("a still is sent as bare base64", () => {
  assert.deepEqual(cameraStill("QUJD"), { type: "input_image_buffer.append", image: "QUJD" });
});

test("news of the line are one kind of event", () => {
  const told = { type: "session.queued", ticket_id: "t", position: 2, estimated_wait_s: 31.5, queue_length: 4 };
  const queued = { type: "session.queued", position: 2, estimated_wait_s: 31.5 };
  assert.deepEqual(decode(told), queued);
  assert.deepEqual(decode({ ...told, type: "session.queue_update" }), queued);
});
