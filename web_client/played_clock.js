/**
 * How much of a response has been heard over WebRTC, where sound arrives on a media track without positions.
 *
 * The server says when it started to send a response and, now and then, how far it is; between its words time runs at
 * the speed of sound being played, less what waits in the browser's jitter buffer. Pure: times are handed in.
 */

/** Positions that disagree with the clock by less than this are jitter of the message, not news. */
const TOLERANCE_MS = 80;

export class PlayedClock {
  constructor() {
    this.responseId = "";
    this.running = false;
    this.anchorMs = 0;
    this.anchorAtMs = 0;
    /** Sound between the server's clock and the listener's ear: network and jitter buffer. */
    this.delayMs = 0;
    this.frozenMs = 0;
    /** @type {number | null} where the server's clock stood when nothing got through any more */
    this.heldMs = null;
  }

  /**
   * @param {string} responseId
   * @param {number} nowMs
   */
  start(responseId, nowMs) {
    this.responseId = responseId;
    this.running = true;
    this.anchorMs = 0;
    this.anchorAtMs = nowMs;
    this.frozenMs = 0;
    this.heldMs = null;
  }

  /**
   * Take the server's word for how far it has sent.
   *
   * @param {string} responseId
   * @param {number} playedMs
   * @param {number} nowMs
   */
  correct(responseId, playedMs, nowMs) {
    if (!this.running || responseId !== this.responseId) return;
    const expected = this.anchorMs + nowMs - this.anchorAtMs;
    if (Math.abs(expected - playedMs) < TOLERANCE_MS) return;
    this.anchorMs = playedMs;
    this.anchorAtMs = nowMs;
  }

  /** @param {number} nowMs */
  stop(nowMs) {
    this.frozenMs = this.playedMs(nowMs);
    this.running = false;
    this.heldMs = null;
  }

  /**
   * Stand still: no sound arrives.
   *
   * @param {number} nowMs
   */
  hold(nowMs) {
    if (!this.running) return;
    const heldMs = this.anchorMs + nowMs - this.anchorAtMs;
    this.stop(nowMs);
    this.heldMs = heldMs;
  }

  /**
   * Go on after `hold`.
   *
   * @param {number} nowMs
   */
  go(nowMs) {
    if (this.heldMs === null) return;
    this.anchorMs = this.heldMs;
    this.anchorAtMs = nowMs;
    this.heldMs = null;
    this.running = true;
  }

  /**
   * @param {number} nowMs
   * @returns {number} ms of the response that have been heard
   */
  playedMs(nowMs) {
    if (!this.running) return this.frozenMs;
    return Math.max(0, this.anchorMs + nowMs - this.anchorAtMs - this.delayMs);
  }
}
