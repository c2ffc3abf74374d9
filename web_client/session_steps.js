/**
 * What every part of the state machine may have to do, and the steps that they share. Pure.
 *
 * @import { SessionState } from "./session_state.js"
 * @import { ClientEvent } from "./types.js"
 *
 * @typedef {"retry" | "interrupted"} TimerName
 *
 * @typedef {{ type: "open" } | { type: "close" } | { type: "send", event: ClientEvent } | { type: "flush" }
 *   | { type: "duck", on: boolean } | { type: "microphone", on: boolean }
 *   | { type: "timer", name: TimerName, ms: number } | { type: "cancel_timer", name: TimerName }
 *   | { type: "mark", kind: "interrupted" } | { type: "note", key: "reconnected" }
 *   | { type: "notice", message: string } | { type: "ends_soon", seconds: number }} Effect
 */

/** How long the page shows that it was interrupted; shorter is missed, longer looks stuck. */
export const INTERRUPTED_MS = 1400;

/** @param {SessionState} state */
export function unchanged(state) {
  return { state, effects: [] };
}

/** @returns {Effect[]} the timers that must not outlive a conversation */
export function quiet() {
  return [
    { type: "cancel_timer", name: "retry" },
    { type: "cancel_timer", name: "interrupted" },
  ];
}

/**
 * @param {SessionState} state in which the model is heard
 * @returns {{ state: SessionState, effects: Effect[] }}
 */
export function cut(state) {
  return {
    state: { ...state, audible: "", interrupted: true, overlapping: false },
    effects: [
      { type: "flush" },
      { type: "mark", kind: "interrupted" },
      { type: "timer", name: "interrupted", ms: INTERRUPTED_MS },
    ],
  };
}
