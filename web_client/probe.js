/**
 * A small read-only window into the page for tests and curious people: `window.duplex`.
 *
 * @import { App } from "./app.js"
 * @import { ShownLine } from "./captions.js"
 * @import { Latency } from "./latency.js"
 * @import { SessionState, View } from "./session_state.js"
 * @import { LevelSample, Quality } from "./types.js"
 *
 * @typedef {{ t: number, type: string, [key: string]: unknown }} LoggedEvent
 *
 * @typedef {object} Probe every reading is a copy
 * @property {SessionState & { view: View }} state
 * @property {ShownLine[]} captions
 * @property {{ model: LevelSample[], user: LevelSample[] }} levels loudness as heard, 20 ms slices
 * @property {Latency[]} latencies
 * @property {LoggedEvent[]} events the newest events of the server, without sound
 * @property {Quality | null} quality
 * @property {number} now the clock of all these times
 */

import { viewOf } from "./session_state.js";

/** Events kept; the oldest goes. */
const EVENTS_KEPT = 500;

export class EventLog {
  constructor() {
    /** @type {LoggedEvent[]} oldest first, bounded by EVENTS_KEPT */
    this.entries = [];
  }

  /**
   * @param {number} nowMs
   * @param {{ type: string }} event
   */
  add(nowMs, event) {
    if (event.type === "response.output_audio.delta") return;
    this.entries.push({ ...event, t: nowMs });
    if (this.entries.length > EVENTS_KEPT) this.entries.shift();
  }
}

/**
 * @param {App} app
 * @returns {Probe}
 */
export function makeProbe(app) {
  return Object.freeze({
    get state() {
      return { ...app.state, view: viewOf(app.state) };
    },
    get captions() {
      return app.captions.shown();
    },
    get levels() {
      return { model: app.levels.model.samples.slice(), user: app.levels.user.samples.slice() };
    },
    get latencies() {
      return app.latency.measured.slice();
    },
    get events() {
      return app.events.entries.slice();
    },
    get quality() {
      return app.quality && { ...app.quality };
    },
    get now() {
      return performance.now();
    },
  });
}
