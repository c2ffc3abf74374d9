/**
 * The conversation as a state machine: what happened goes in, the new state and what to do about it come out.
 *
 * Pure: it opens nothing, sends nothing and knows no clock; `app.js` carries out the effects. The same machine serves
 * both transports.
 *
 * @import { Loss, LossReason, ServerEvent } from "./types.js"
 * @import { SessionState } from "./session_state.js"
 * @import { Effect, TimerName } from "./session_steps.js"
 * @import { Wish } from "./session_wishes.js"
 *
 * @typedef {{ type: "start" } | { type: "stop" } | { type: "opened" } | { type: "lost", loss: Loss }
 *   | { type: "stalled", on: boolean }
 *   | { type: "online" } | { type: "server", event: ServerEvent }
 *   | { type: "playback", state: "started" | "stopped" | "cleared", responseId: string }
 *   | { type: "timer", name: TimerName } | Wish } Input
 */

import { BETWEEN_SESSIONS, microphoneOpen } from "./session_state.js";
import { cut, quiet, unchanged } from "./session_steps.js";
import { asked } from "./session_wishes.js";
import { sessionUpdate } from "./wire.js";

/** First wait before a new attempt to connect; it doubles up to the longest. A full server names the time until it is
 * surely free, which may be minutes; somebody who waits at the page wants the place that is given back before. */
const RETRY_FIRST_MS = 500;
const RETRY_LONGEST_MS = 15_000;

/** Attempts after which the page stops and asks the person. With the waits above: about two minutes. */
const ATTEMPTS_MAX = 12;

/** Errors that answer a race between the page and the server; nobody needs to hear of them. */
const BENIGN_ERRORS = new Set([
  "response_cancel_not_active",
  "conversation_already_has_active_response",
  "input_audio_buffer_commit_empty",
]);

/** Losses after which trying again by itself is right. */
/** @type {ReadonlySet<LossReason>} */
const RETRIED = new Set(["network", "full", "shutdown"]);

/**
 * Take one step.
 *
 * @param {SessionState} state
 * @param {Input} input
 * @returns {{ state: SessionState, effects: Effect[] }} effects are to be carried out in their order
 */
export function step(state, input) {
  switch (input.type) {
    case "start":
      return start(state);
    case "stop":
      return { state: { ...state, ...BETWEEN_SESSIONS, phase: "idle", loss: null }, effects: [...quiet(), { type: "close" }] };
    case "opened":
      return opened(state);
    case "lost":
      return lost(state, input.loss);
    case "stalled":
      return { state: { ...state, stalled: input.on }, effects: [] };
    case "online":
      return state.phase === "reconnecting" ? retry({ ...state, attempt: 0 }) : unchanged(state);
    case "server":
      return state.phase === "idle" ? unchanged(state) : received(state, input.event);
    case "playback":
      return playback(state, input.state, input.responseId);
    case "timer":
      return timer(state, input.name);
    default:
      return asked(state, input);
  }
}

/**
 * @param {SessionState} state
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function start(state) {
  if (state.phase !== "idle" && state.phase !== "failed") return unchanged(state);
  return {
    state: { ...state, ...BETWEEN_SESSIONS, phase: "connecting", attempt: 1, wasOpen: false, loss: null },
    effects: [...quiet(), { type: "open" }],
  };
}

/**
 * @param {SessionState} state
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function retry(state) {
  return {
    state: { ...state, attempt: state.attempt + 1 },
    effects: [{ type: "cancel_timer", name: "retry" }, { type: "open" }],
  };
}

/**
 * @param {SessionState} state
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function opened(state) {
  if (state.phase !== "connecting" && state.phase !== "reconnecting") return unchanged(state);
  /** @type {Effect[]} */
  const effects = [
    { type: "send", event: sessionUpdate(state.policy, state.language) },
    { type: "microphone", on: microphoneOpen(state) },
  ];
  if (state.wasOpen) effects.push({ type: "note", key: "reconnected" });
  return { state: { ...state, phase: "live", attempt: 0, wasOpen: true, loss: null, queue: null }, effects };
}

/**
 * @param {SessionState} state
 * @param {Loss} loss
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function lost(state, loss) {
  if (state.phase === "idle" || state.phase === "failed") return unchanged(state);
  const told = announcedLoss(state, loss);
  /** @type {SessionState} */
  const next = { ...state, ...BETWEEN_SESSIONS, loss: told };
  /** @type {Effect[]} */
  const effects = [...quiet(), { type: "close" }];
  if (told.reason === "goodbye" || told.reason === "limit") return { state: { ...next, phase: "idle" }, effects };
  if (!RETRIED.has(told.reason) || state.attempt >= ATTEMPTS_MAX) return { state: { ...next, phase: "failed" }, effects };
  const backOff = Math.min(RETRY_LONGEST_MS, RETRY_FIRST_MS * 2 ** state.attempt);
  const retryInMs = Math.min(RETRY_LONGEST_MS, Math.max(backOff, told.retry_after_s * 1000));
  effects.push({ type: "timer", name: "retry", ms: retryInMs });
  return { state: { ...next, phase: "reconnecting" }, effects };
}

/**
 * A close that the server announced has the announced reason, whatever the connection says.
 *
 * @param {SessionState} state
 * @param {Loss} loss
 * @returns {Loss}
 */
function announcedLoss(state, loss) {
  /** @type {Record<string, LossReason>} */
  const reasons = { model: "goodbye", timeout: "limit", shutdown: "shutdown" };
  const reason = reasons[state.leaving];
  return reason ? { ...loss, reason } : loss;
}

/**
 * @param {SessionState} state
 * @param {TimerName} name
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function timer(state, name) {
  if (name === "interrupted") return { state: { ...state, interrupted: false }, effects: [] };
  return state.phase === "reconnecting" ? retry(state) : unchanged(state);
}

/**
 * @param {SessionState} state
 * @param {ServerEvent} event
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function received(state, event) {
  switch (event.type) {
    case "session.created":
    case "session.updated":
      return { state: { ...state, facts: event.session }, effects: [] };
    case "session.queued":
      return queued(state, event.position, event.estimated_wait_s);
    case "session.queue_done":
      return { state: { ...state, queue: null }, effects: [] };
    case "session.go_away":
      return { state: { ...state, leaving: event.reason }, effects: endsSoon(event.time_left_ms) };
    case "input_audio_buffer.speech_started":
      return speechStarted(state);
    case "input_audio_buffer.speech_stopped":
      return { state: { ...state, userSpeaking: false }, effects: [] };
    case "response.created":
      return { state: { ...state, response: { id: event.response_id, itemId: "" } }, effects: [] };
    case "response.output_item.added":
      return { state: { ...state, response: { id: event.response_id, itemId: event.item_id } }, effects: [] };
    case "response.done":
      return responseDone(state, event.response_id, event.status, event.reason);
    case "overlap.decision":
      return overlap(state, event.action);
    case "error":
      return BENIGN_ERRORS.has(event.code)
        ? unchanged(state)
        : { state, effects: [{ type: "notice", message: event.message }] };
    default:
      return unchanged(state);
  }
}

/**
 * Nobody is heard in the line, and the server answers: should the line break, trying begins anew.
 *
 * @param {SessionState} state
 * @param {number} position
 * @param {number} waitS
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function queued(state, position, waitS) {
  if (state.phase !== "connecting" && state.phase !== "reconnecting") return unchanged(state);
  return { state: { ...state, queue: { position, waitS }, attempt: 0, loss: null }, effects: [{ type: "microphone", on: false }] };
}

/**
 * @param {number} timeLeftMs
 * @returns {Effect[]}
 */
function endsSoon(timeLeftMs) {
  return timeLeftMs >= 1000 ? [{ type: "ends_soon", seconds: Math.round(timeLeftMs / 1000) }] : [];
}

/**
 * While the model is heard, the server sends this only for a real interruption: silence at once.
 *
 * @param {SessionState} state
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function speechStarted(state) {
  const next = { ...state, userSpeaking: true, overlapping: false };
  return state.audible ? cut(next) : { state: next, effects: [] };
}

/**
 * @param {SessionState} state
 * @param {string} responseId
 * @param {string} status
 * @param {string} reason
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function responseDone(state, responseId, status, reason) {
  const next = state.response?.id === responseId ? { ...state, response: null } : state;
  const cancelled = status === "cancelled" && (reason === "turn_detected" || reason === "client_cancelled");
  if (cancelled && state.audible === responseId) return cut(next);
  if (status === "failed") return { state: next, effects: [{ type: "flush" }] };
  return { state: next, effects: [] };
}

/**
 * @param {SessionState} state
 * @param {string} action
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function overlap(state, action) {
  const held = action === "hold";
  return { state: { ...state, overlapping: held }, effects: action === "interrupt" ? [] : [{ type: "duck", on: held }] };
}

/**
 * @param {SessionState} state
 * @param {"started" | "stopped" | "cleared"} what
 * @param {string} responseId
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function playback(state, what, responseId) {
  if (state.phase !== "live") return unchanged(state);
  if (what !== "started") {
    return state.audible === responseId ? { state: { ...state, audible: "", overlapping: false }, effects: [] } : unchanged(state);
  }
  return {
    state: { ...state, audible: responseId, interrupted: false },
    effects: [{ type: "cancel_timer", name: "interrupted" }],
  };
}
