/**
 * What the person asks for while the page runs, as steps of the state machine. Pure.
 *
 * @import { SessionState } from "./session_state.js"
 * @import { Effect } from "./session_steps.js"
 * @import { Language, Policy, TransportKind } from "./types.js"
 *
 * @typedef {{ type: "kind", kind: TransportKind } | { type: "policy", policy: Policy }
 *   | { type: "language", language: Language } | { type: "mute", on: boolean } | { type: "talk", on: boolean }
 *   | { type: "say", itemId: string, text: string } | { type: "interrupt" }} Wish
 */

import { BETWEEN_SESSIONS, microphoneOpen } from "./session_state.js";
import { cut, quiet, unchanged } from "./session_steps.js";
import { sessionUpdate, typedMessage } from "./wire.js";

/**
 * What the person asked for.
 *
 * @param {SessionState} state
 * @param {Wish} input
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
export function asked(state, input) {
  switch (input.type) {
    case "kind":
      return changeTransport(state, input.kind);
    case "policy":
      return reconfigured({ ...state, policy: input.policy, talking: false });
    case "language":
      return reconfigured({ ...state, language: input.language });
    case "mute": {
      const next = { ...state, muted: input.on };
      return { state: next, effects: [{ type: "microphone", on: next.phase === "live" && microphoneOpen(next) }] };
    }
    case "talk":
      return pushToTalk(state, input.on);
    case "say":
      return say(state, input.itemId, input.text);
    case "interrupt":
      return state.phase === "live" && state.audible ? stopSpeaking(state) : unchanged(state);
  }
}

/**
 * @param {SessionState} state
 * @param {TransportKind} kind
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function changeTransport(state, kind) {
  if (kind === state.kind) return unchanged(state);
  if (state.phase === "idle" || state.phase === "failed") return { state: { ...state, kind }, effects: [] };
  return {
    state: { ...state, ...BETWEEN_SESSIONS, kind, phase: "connecting", attempt: 1, loss: null },
    effects: [...quiet(), { type: "close" }, { type: "open" }],
  };
}

/**
 * @param {SessionState} state
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function reconfigured(state) {
  if (state.phase !== "live") return unchanged(state);
  return {
    state,
    effects: [
      { type: "send", event: sessionUpdate(state.policy, state.language) },
      { type: "microphone", on: microphoneOpen(state) },
    ],
  };
}

/**
 * @param {SessionState} state
 * @param {boolean} on
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function pushToTalk(state, on) {
  if (state.phase !== "live" || state.policy !== "push_to_talk" || state.talking === on) return unchanged(state);
  const next = { ...state, talking: on };
  /** @type {Effect[]} */
  const effects = [{ type: "microphone", on }];
  if (on && state.audible) {
    const stopped = stopSpeaking(next);
    return { state: stopped.state, effects: [...effects, ...stopped.effects] };
  }
  if (!on) {
    effects.push({ type: "send", event: { type: "input_audio_buffer.commit" } });
    effects.push({ type: "send", event: { type: "response.create" } });
  }
  return { state: next, effects };
}

/**
 * @param {SessionState} state
 * @param {string} itemId
 * @param {string} text
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function say(state, itemId, text) {
  if (state.phase !== "live" || text.trim() === "") return unchanged(state);
  const silenced = state.audible || state.response ? stopSpeaking(state) : unchanged(state);
  /** @type {Effect[]} */
  const sends = typedMessage(itemId, text.trim()).map((event) => ({ type: "send", event }));
  return { state: silenced.state, effects: [...silenced.effects, ...sends] };
}

/**
 * End the running response because the person said so without speaking.
 *
 * @param {SessionState} state
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
function stopSpeaking(state) {
  /** @type {Effect[]} */
  const effects = [];
  if (state.response) effects.push({ type: "send", event: { type: "response.cancel", response_id: state.response.id } });
  if (state.kind === "webrtc") effects.push({ type: "send", event: { type: "output_audio_buffer.clear" } });
  const stopped = state.audible ? cut(state) : unchanged(state);
  return { state: stopped.state, effects: [...effects, ...stopped.effects] };
}
