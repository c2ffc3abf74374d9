/**
 * What the numbers of a connection mean for a conversation.
 *
 * Pure: reports in, a grade out.
 *
 * @import { Quality } from "./types.js"
 * @typedef {0 | 1 | 2 | 3} Grade bars lit: 0 unknown, 1 poor, 2 fair, 3 good
 */

/** Limits above which a connection is no longer good, and above which it is poor. ITU-T G.114 asks for less than 150 ms
 * one way for an undisturbed conversation; Opus conceals about 5 % of loss well. */
const LIMITS = {
  rttMs: [150, 350],
  jitterMs: [30, 80],
  loss: [0.02, 0.08],
  bufferedBytes: [32_000, 160_000],
};

/**
 * @param {Quality | null} quality
 * @returns {Grade}
 */
export function gradeOf(quality) {
  if (!quality) return 0;
  /** @type {Grade[]} */
  const grades = [];
  for (const [name, [fair, poor]] of Object.entries(LIMITS)) {
    const value = quality[/** @type {keyof typeof LIMITS} */ (name)];
    if (value === null || fair === undefined || poor === undefined) continue;
    grades.push(value > poor ? 1 : value > fair ? 2 : 3);
  }
  return grades.length === 0 ? 0 : /** @type {Grade} */ (Math.min(...grades));
}

/**
 * The values of `getStats()` that matter here.
 *
 * @typedef {object} Counters
 * @property {number | null} rttMs
 * @property {number | null} jitterMs
 * @property {number} packetsLost
 * @property {number} packetsReceived
 * @property {number | null} bufferDelayMs mean stay of a sample in the jitter buffer since the connection was made
 */

/**
 * @param {Iterable<Record<string, unknown>>} reports of `RTCPeerConnection.getStats()`
 * @returns {Counters}
 */
export function readCounters(reports) {
  /** @type {Counters} */
  const counters = { rttMs: null, jitterMs: null, packetsLost: 0, packetsReceived: 0, bufferDelayMs: null };
  for (const report of reports) {
    if (report.type === "candidate-pair" && report.nominated === true) {
      const rtt = report.currentRoundTripTime;
      if (typeof rtt === "number") counters.rttMs = rtt * 1000;
    }
    if (report.type === "inbound-rtp" && report.kind === "audio") readInbound(counters, report);
  }
  return counters;
}

/**
 * @param {Counters} counters
 * @param {Record<string, unknown>} report
 */
function readInbound(counters, report) {
  if (typeof report.jitter === "number") counters.jitterMs = report.jitter * 1000;
  counters.packetsLost = Number(report.packetsLost ?? 0);
  counters.packetsReceived = Number(report.packetsReceived ?? 0);
  const emitted = Number(report.jitterBufferEmittedCount ?? 0);
  if (emitted > 0) counters.bufferDelayMs = (Number(report.jitterBufferDelay ?? 0) / emitted) * 1000;
}

/**
 * @param {Counters} before
 * @param {Counters} now
 * @returns {number | null} share of packets lost between the two, 0..1
 */
export function lossBetween(before, now) {
  const lost = Math.max(0, now.packetsLost - before.packetsLost);
  const received = Math.max(0, now.packetsReceived - before.packetsReceived);
  return lost + received === 0 ? null : lost / (lost + received);
}
