import assert from "node:assert/strict";
import test from "node:test";

import { loss } from "../access.js";
import { step } from "../session.js";
import { initialState, viewOf } from "../session_state.js";

/**
 * @import { Input } from "../session.js"
 * @import { Effect } from "../session_steps.js"
 * @import { LossReason, ServerEvent, TransportKind } from "../types.js"
 */

/** A conversation played through the machine. */
class Play {
  /** @param {TransportKind} [kind] */
  constructor(kind = "websocket") {
    this.state = initialState(kind, "guarded", "en");
    /** @type {Effect[]} of the last input */
    this.effects = [];
  }

  /** @param {Input} input */
  feed(input) {
    const { state, effects } = step(this.state, input);
    this.state = state;
    this.effects = effects;
    return this;
  }

  /** @param {ServerEvent[]} events */
  server(...events) {
    for (const event of events) this.feed({ type: "server", event });
    return this;
  }

  /** @param {LossReason} reason @param {number} [retryAfterS] */
  lose(reason, retryAfterS = 0) {
    return this.feed({ type: "lost", loss: loss(reason, "", retryAfterS) });
  }

  live() {
    return this.feed({ type: "start" }).feed({ type: "opened" });
  }

  speaking() {
    this.live().server(
      { type: "response.created", response_id: "r" },
      { type: "response.output_item.added", response_id: "r", item_id: "i" },
    );
    return this.feed({ type: "playback", state: "started", responseId: "r" });
  }

  get view() {
    return viewOf(this.state);
  }

  get kinds() {
    return this.effects.map((effect) => effect.type);
  }

  /** @returns {string[]} types of the events sent by the last input */
  get sent() {
    return this.effects.flatMap((effect) => (effect.type === "send" ? [effect.event.type] : []));
  }
}

/** @type {ServerEvent} */
const SPEECH = { type: "input_audio_buffer.speech_started", item_id: "u", audio_start_ms: 0 };
/** @type {ServerEvent} */
const SILENCE = { type: "input_audio_buffer.speech_stopped", item_id: "u", audio_end_ms: 0 };

test("start connects, and a connection is told how the conversation is to go", () => {
  const play = new Play();
  assert.equal(play.view, "idle");
  play.feed({ type: "start" });
  assert.equal(play.view, "connecting");
  assert.ok(play.kinds.includes("open"));
  play.feed({ type: "opened" });
  assert.equal(play.view, "listening");
  assert.deepEqual(play.sent, ["session.update"]);
  assert.ok(play.effects.some((effect) => effect.type === "microphone" && effect.on));
});

test("start while running does nothing", () => {
  const play = new Play().live().feed({ type: "start" });
  assert.deepEqual(play.effects, []);
});

test("the page shows who is heard", () => {
  const play = new Play().live().server(SPEECH);
  assert.equal(play.view, "hearing");
  play.server(SILENCE);
  assert.equal(play.view, "listening");
  play.server({ type: "response.created", response_id: "r" }).feed({ type: "playback", state: "started", responseId: "r" });
  assert.equal(play.view, "speaking");
  play.server({ type: "response.done", response_id: "r", status: "completed", reason: "", detail: "" });
  assert.equal(play.view, "speaking");
  play.feed({ type: "playback", state: "stopped", responseId: "r" });
  assert.equal(play.view, "listening");
});

test("speech while the model is silent flushes nothing", () => {
  assert.deepEqual(new Play().live().server(SPEECH).effects, []);
});

test("a real interruption silences at once and is shown for a moment", () => {
  const play = new Play().speaking().server(SPEECH);
  assert.equal(play.kinds[0], "flush");
  assert.equal(play.view, "interrupted");
  play.server({ type: "response.done", response_id: "r", status: "cancelled", reason: "turn_detected", detail: "" });
  assert.deepEqual(play.effects, []);
  play.feed({ type: "timer", name: "interrupted" });
  assert.equal(play.view, "hearing");
});

test("a response that the model gave up by itself is an interruption too", () => {
  const play = new Play().speaking();
  play.server({ type: "response.done", response_id: "r", status: "cancelled", reason: "turn_detected", detail: "" });
  assert.equal(play.kinds[0], "flush");
  assert.equal(play.view, "interrupted");
});

test("a new answer ends the look of the interruption", () => {
  const play = new Play().speaking().server(SPEECH, { type: "response.created", response_id: "s" });
  play.feed({ type: "playback", state: "started", responseId: "s" });
  assert.equal(play.view, "speaking");
});

test("a possible interruption lowers the voice and an ignored one raises it", () => {
  const play = new Play().speaking().server({ type: "overlap.decision", action: "hold", reason: "" });
  assert.deepEqual(play.effects, [{ type: "duck", on: true }]);
  assert.equal(play.state.overlapping, true);
  assert.equal(play.view, "speaking");
  play.server({ type: "overlap.decision", action: "ignore", reason: "backchannel" });
  assert.deepEqual(play.effects, [{ type: "duck", on: false }]);
  assert.equal(play.state.overlapping, false);
});

test("the end of another response does not end the one that is heard", () => {
  const play = new Play().speaking();
  play.feed({ type: "playback", state: "stopped", responseId: "other" });
  assert.equal(play.view, "speaking");
});

test("the person can interrupt by a button, each transport in its way", () => {
  const socket = new Play("websocket").speaking().feed({ type: "interrupt" });
  assert.deepEqual(socket.sent, ["response.cancel"]);
  assert.ok(socket.kinds.includes("flush"));
  const call = new Play("webrtc").speaking().feed({ type: "interrupt" });
  assert.deepEqual(call.sent, ["response.cancel", "output_audio_buffer.clear"]);
  assert.equal(call.view, "interrupted");
});

test("there is nothing to interrupt in silence", () => {
  assert.deepEqual(new Play().live().feed({ type: "interrupt" }).effects, []);
});

test("a typed message silences the model first", () => {
  const play = new Play().speaking().feed({ type: "say", itemId: "u", text: " hello " });
  assert.deepEqual(play.sent, ["response.cancel", "conversation.item.create", "response.create"]);
  assert.deepEqual(new Play().live().feed({ type: "say", itemId: "u", text: "  " }).effects, []);
  assert.deepEqual(new Play().feed({ type: "say", itemId: "u", text: "hello" }).effects, []);
});

test("mute closes the microphone and survives a reconnection", () => {
  const play = new Play().live().feed({ type: "mute", on: true });
  assert.deepEqual(play.effects, [{ type: "microphone", on: false }]);
  assert.equal(play.view, "muted");
  play.lose("network").feed({ type: "timer", name: "retry" }).feed({ type: "opened" });
  assert.ok(play.effects.some((effect) => effect.type === "microphone" && !effect.on));
});

test("push to talk opens the microphone while the button is held, then asks for an answer", () => {
  const play = new Play().live().feed({ type: "policy", policy: "push_to_talk" });
  assert.deepEqual(play.sent, ["session.update"]);
  assert.ok(play.effects.some((effect) => effect.type === "microphone" && !effect.on));
  play.feed({ type: "talk", on: true });
  assert.equal(play.view, "hearing");
  assert.deepEqual(play.effects, [{ type: "microphone", on: true }]);
  play.feed({ type: "talk", on: false });
  assert.deepEqual(play.sent, ["input_audio_buffer.commit", "response.create"]);
  assert.deepEqual(play.feed({ type: "talk", on: false }).effects, []);
});

test("taking the floor by button silences the model", () => {
  const play = new Play().speaking().feed({ type: "policy", policy: "push_to_talk" }).feed({ type: "talk", on: true });
  assert.deepEqual(play.sent, ["response.cancel"]);
  assert.ok(play.kinds.includes("flush"));
});

test("the talk button means nothing under other policies", () => {
  assert.deepEqual(new Play().live().feed({ type: "talk", on: true }).effects, []);
});

test("a lost connection is tried again, later and later, and the conversation is told", () => {
  const play = new Play().live();
  /** @type {number[]} */
  const waits = [];
  for (let i = 0; i < 8; i += 1) {
    play.lose("network");
    assert.equal(play.view, "reconnecting");
    waits.push(...play.effects.flatMap((effect) => (effect.type === "timer" ? [effect.ms] : [])));
    play.feed({ type: "timer", name: "retry" });
    assert.ok(play.kinds.includes("open"));
  }
  assert.deepEqual(waits, [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
  play.feed({ type: "opened" });
  assert.ok(play.kinds.includes("note"));
  assert.equal(play.state.attempt, 0);
});

test("a stalled connection is shown and keeps the conversation", () => {
  const play = new Play("webrtc").speaking().feed({ type: "stalled", on: true });
  assert.equal(play.view, "reconnecting");
  assert.deepEqual(play.effects, []);
  assert.equal(play.feed({ type: "stalled", on: false }).view, "speaking");
});

test("a full server is asked again when it said so, but within 15 s", () => {
  const play = new Play().feed({ type: "start" }).lose("full", 9);
  assert.deepEqual(play.effects.at(-1), { type: "timer", name: "retry", ms: 9000 });
  const patient = new Play().feed({ type: "start" }).lose("full", 120);
  assert.deepEqual(patient.effects.at(-1), { type: "timer", name: "retry", ms: 15_000 });
});

test("after many attempts the person is asked", () => {
  const play = new Play().live();
  for (let i = 0; i < 12; i += 1) play.lose("network").feed({ type: "timer", name: "retry" });
  assert.equal(play.lose("network").view, "error");
  assert.equal(play.feed({ type: "start" }).view, "connecting");
});

test("a network that is back is tried at once", () => {
  const play = new Play().live().lose("network").feed({ type: "online" });
  assert.ok(play.kinds.includes("open"));
  assert.deepEqual(new Play().live().feed({ type: "online" }).effects, []);
});

test("what trying again cannot mend is shown with its reason", () => {
  for (const reason of /** @type {const} */ (["unauthorized", "media_path", "refused"])) {
    const play = new Play().feed({ type: "start" }).lose(reason);
    assert.equal(play.view, "error");
    assert.equal(play.state.loss?.reason, reason);
  }
});

test("goodbye and the time limit end quietly, a restart reconnects", () => {
  /** @param {string} reason */
  const leave = (reason) =>
    new Play().live().server({ type: "session.go_away", reason, time_left_ms: 1000 }).lose("limit");
  assert.equal(leave("model").view, "idle");
  assert.equal(leave("model").state.loss?.reason, "goodbye");
  assert.equal(leave("timeout").state.loss?.reason, "limit");
  assert.equal(leave("shutdown").view, "reconnecting");
});

test("an end that is announced ahead is told, one that is now is not", () => {
  const play = new Play().live().server({ type: "session.go_away", reason: "timeout", time_left_ms: 29_980 });
  assert.deepEqual(play.effects, [{ type: "ends_soon", seconds: 30 }]);
  assert.deepEqual(play.server({ type: "session.go_away", reason: "model", time_left_ms: 0 }).effects, []);
});

test("stop forgets the session and cancels what is planned", () => {
  const play = new Play().live().lose("network").feed({ type: "stop" });
  assert.equal(play.view, "idle");
  assert.deepEqual(play.effects.map((effect) => effect.type), ["cancel_timer", "cancel_timer", "close"]);
  assert.deepEqual(play.feed({ type: "timer", name: "retry" }).effects, []);
  assert.deepEqual(play.lose("network").effects, []);
});

test("late news of a connection that is gone change nothing", () => {
  const play = new Play().speaking().feed({ type: "stop" });
  const before = play.state;
  play.server(SPEECH).feed({ type: "playback", state: "started", responseId: "r" });
  assert.deepEqual(play.state, before);
});

test("another transport means another connection", () => {
  const play = new Play("webrtc").live().feed({ type: "kind", kind: "websocket" });
  assert.deepEqual(play.kinds.slice(-2), ["close", "open"]);
  assert.equal(play.view, "connecting");
  const idle = new Play("webrtc").feed({ type: "kind", kind: "websocket" });
  assert.deepEqual(idle.effects, []);
  assert.equal(idle.state.kind, "websocket");
});

test("language and policy are told to a running session only", () => {
  assert.deepEqual(new Play().live().feed({ type: "language", language: "zh" }).sent, ["session.update"]);
  assert.deepEqual(new Play().feed({ type: "language", language: "zh" }).sent, []);
});

test("errors that answer a race are not shown, others are", () => {
  const play = new Play().live();
  play.server({ type: "error", code: "response_cancel_not_active", message: "m", kind: "" });
  assert.deepEqual(play.effects, []);
  play.server({ type: "error", code: "server_error", message: "m", kind: "" });
  assert.deepEqual(play.effects, [{ type: "notice", message: "m" }]);
});

test("in the line nobody is heard, and the place is shown until it is there", () => {
  const play = new Play("webrtc").feed({ type: "start" });
  play.server({ type: "session.queued", position: 3, estimated_wait_s: 80 });
  assert.equal(play.view, "queued");
  assert.deepEqual(play.state.queue, { position: 3, waitS: 80 });
  assert.deepEqual(play.effects, [{ type: "microphone", on: false }]);
  play.feed({ type: "mute", on: true }).feed({ type: "mute", on: false });
  assert.deepEqual(play.effects, [{ type: "microphone", on: false }], "not before the conversation");
  play.server({ type: "session.queued", position: 1, estimated_wait_s: 20 }, { type: "session.queue_done" });
  assert.equal(play.view, "connecting");
  play.feed({ type: "opened" });
  assert.equal(play.view, "listening");
  assert.ok(play.effects.some((effect) => effect.type === "microphone" && effect.on));
});

test("a line that breaks is joined again, as often as the server answers", () => {
  const play = new Play().feed({ type: "start" });
  for (let n = 0; n < 20; n++) {
    play.server({ type: "session.queued", position: 2, estimated_wait_s: 60 }).lose("network");
    assert.equal(play.view, "reconnecting");
    assert.equal(play.state.queue, null);
    play.feed({ type: "timer", name: "retry" });
    assert.deepEqual(play.kinds, ["cancel_timer", "open"]);
  }
});

test("who leaves the line is back at the start", () => {
  const play = new Play().feed({ type: "start" }).server({ type: "session.queued", position: 2, estimated_wait_s: 60 });
  play.feed({ type: "stop" });
  assert.equal(play.view, "idle");
  assert.ok(play.kinds.includes("close"));
});
