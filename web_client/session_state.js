/**
 * What the page knows of the conversation, and the one word that it shows for it.
 *
 * Pure data; `session.js` says how it changes.
 *
 * @import { Language, Loss, Policy, SessionFacts, TransportKind } from "./types.js"
 *
 * @typedef {"idle" | "connecting" | "live" | "reconnecting" | "failed"} Phase
 * @typedef {"idle" | "connecting" | "queued" | "listening" | "muted" | "hearing" | "speaking" | "interrupted"
 *           | "reconnecting" | "error"} View the one thing that the page shows large
 *
 * @typedef {object} SessionState
 * @property {Phase} phase
 * @property {TransportKind} kind
 * @property {Policy} policy
 * @property {Language} language
 * @property {SessionFacts | null} facts of the running session
 * @property {boolean} muted
 * @property {boolean} talking push-to-talk: the key or button is held
 * @property {boolean} userSpeaking as the server decides
 * @property {boolean} overlapping the person is heard over the model, and it is not decided whether that interrupts
 * @property {{ id: string, itemId: string } | null} response that the server is making
 * @property {string} audible id of the response whose sound is heard now, or ""
 * @property {boolean} interrupted an interruption happened a moment ago
 * @property {number} attempt how often the connection was tried since it was last open
 * @property {boolean} wasOpen the conversation had begun before the connection was lost
 * @property {Loss | null} loss why the page is reconnecting, has failed, or went back to idle
 * @property {{ position: number, waitS: number } | null} queue place in the server's line, while there is one to wait in
 * @property {boolean} stalled nothing gets through at the moment
 * @property {string} leaving reason the server gave for the close it announced, or ""
 */

/**
 * @param {TransportKind} kind
 * @param {Policy} policy
 * @param {Language} language
 * @returns {SessionState}
 */
export function initialState(kind, policy, language) {
  return {
    phase: "idle",
    kind,
    policy,
    language,
    muted: false,
    attempt: 0,
    wasOpen: false,
    loss: null,
    ...BETWEEN_SESSIONS,
  };
}

/** What belongs to one connection and dies with it. */
export const BETWEEN_SESSIONS = Object.freeze({
  facts: null,
  talking: false,
  userSpeaking: false,
  overlapping: false,
  response: null,
  audible: "",
  interrupted: false,
  queue: null,
  stalled: false,
  leaving: "",
});

/**
 * @param {SessionState} state
 * @returns {View}
 */
export function viewOf(state) {
  switch (state.phase) {
    case "idle":
      return "idle";
    case "failed":
      return "error";
    case "connecting":
    case "reconnecting":
      return state.queue ? "queued" : state.phase;
    case "live":
      if (state.stalled) return "reconnecting";
      if (state.interrupted) return "interrupted";
      if (state.audible) return "speaking";
      if (state.userSpeaking || state.talking) return "hearing";
      return state.muted && state.policy !== "push_to_talk" ? "muted" : "listening";
  }
}

/**
 * @param {SessionState} state
 * @returns {boolean} whether the microphone's sound may leave this device
 */
export function microphoneOpen(state) {
  return state.policy === "push_to_talk" ? state.talking : !state.muted;
}
