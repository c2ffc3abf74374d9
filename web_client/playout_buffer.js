/**
 * What the WebSocket player holds: the model's sound that has arrived and not been heard.
 *
 * Pure: samples in, samples out, no browser interfaces; the playback worklet is a thin shell around it.
 *
 * @typedef {{ responseId: string, itemId: string, samples: Float32Array, at: number }} Chunk
 * @typedef {{ responseId: string, itemId: string, playedSamples: number }} Position
 * @typedef {{ kind: "started" | "stopped", responseId: string } | { kind: "underrun" }} Happening
 */

/** Sound kept back before a response starts, or goes on after it ran dry, so that uneven arrival is not heard. */
const PRIME_MS = 60;

/** Longest stretch that may wait. The server sends with a small lead; more than this is a fault, and is refused. */
const LIMIT_MS = 120_000;

/** Fade-out at a cut and fade-in after a gap; shorter clicks, longer is heard as slow. */
const FADE_MS = 5;

/** Responses whose late chunks are refused are remembered up to this many. */
const CUT_MEMORY = 64;

export class PlayoutBuffer {
  /** @param {number} rateHz */
  constructor(rateHz) {
    this.rateHz = rateHz;
    /** @type {Chunk[]} bounded by LIMIT_MS of sound; what would exceed it is dropped, newest first */
    this.chunks = [];
    this.waitingSamples = 0;
    /** @type {Set<string>} */
    this.ended = new Set();
    /** @type {string[]} newest last, bounded by CUT_MEMORY; the oldest is forgotten */
    this.cut = [];
    /** @type {Position | null} */
    this.position = null;
    this.flowing = false;
    this.gain = 1;
    this.targetGain = 1;
    this.gainStep = 0;
    /** Level of the fade at gaps, 0..1, moved towards 1 while sound flows. */
    this.fade = 0;
    /** @type {Float32Array} what still sounds for FADE_MS after a cut */
    this.tail = new Float32Array(0);
    /** @type {Happening[]} taken by the owner after each `render` */
    this.happenings = [];
  }

  /**
   * @param {string} responseId
   * @param {string} itemId
   * @param {Float32Array} samples
   * @returns {boolean} false if refused: the response was cut, or the buffer is full
   */
  push(responseId, itemId, samples) {
    if (this.cut.includes(responseId)) return false;
    if (this.waitingSamples + samples.length > (LIMIT_MS / 1000) * this.rateHz) return false;
    if (samples.length === 0) return true;
    this.chunks.push({ responseId, itemId, samples, at: 0 });
    this.waitingSamples += samples.length;
    return true;
  }

  /**
   * Note that a response is complete: it plays out without waiting for more.
   *
   * @param {string} responseId
   */
  end(responseId) {
    const waiting = this.chunks.some((chunk) => chunk.responseId === responseId);
    const playing = this.position?.responseId === responseId;
    if (waiting) this.ended.add(responseId);
    else if (playing) this.finish(responseId);
  }

  /**
   * Drop all that has not been heard, at once, and refuse what arrives late of it.
   *
   * @returns {Position | null} what was being heard, and how far
   */
  flush() {
    const heard = this.position ? { ...this.position } : null;
    const fadeSamples = Math.round((FADE_MS / 1000) * this.rateHz);
    this.tail = new Float32Array(fadeSamples);
    if (this.flowing) this.fill(this.tail, false);
    for (let i = 0; i < fadeSamples; i += 1) this.tail[i] = (this.tail[i] ?? 0) * (1 - (i + 1) / fadeSamples);
    const ids = new Set(this.chunks.map((chunk) => chunk.responseId));
    if (heard) ids.add(heard.responseId);
    this.cut.push(...ids);
    this.cut.splice(0, Math.max(0, this.cut.length - CUT_MEMORY));
    this.chunks = [];
    this.waitingSamples = 0;
    this.ended.clear();
    this.position = null;
    this.flowing = false;
    this.fade = 0;
    this.setGain(1, 0);
    return heard;
  }

  /**
   * @param {number} gain 0..1
   * @param {number} rampMs
   */
  setGain(gain, rampMs) {
    this.targetGain = gain;
    const steps = Math.max(1, (rampMs / 1000) * this.rateHz);
    this.gainStep = (gain - this.gain) / steps;
    if (rampMs === 0) this.gain = gain;
  }

  /**
   * Fill a block with what is to be heard now; silence where there is nothing.
   *
   * @param {Float32Array} out
   */
  render(out) {
    out.fill(0);
    if (!this.flowing) this.flowing = this.primed();
    if (this.flowing) this.fill(out, true);
    const tail = this.tail.subarray(0, out.length);
    for (let i = 0; i < tail.length; i += 1) out[i] = (out[i] ?? 0) + (tail[i] ?? 0);
    this.tail = this.tail.slice(tail.length);
  }

  /** @returns {boolean} whether enough waits to start or to go on */
  primed() {
    const first = this.chunks[0];
    if (!first) return false;
    return this.ended.has(first.responseId) || this.waitingSamples >= (PRIME_MS / 1000) * this.rateHz;
  }

  /**
   * @param {Float32Array} out
   * @param {boolean} counted whether the samples count as heard
   */
  fill(out, counted) {
    const fadeStep = 1000 / (FADE_MS * this.rateHz);
    for (let i = 0; i < out.length; i += 1) {
      const chunk = this.head(counted);
      if (!chunk) return;
      this.fade = Math.min(1, this.fade + fadeStep);
      this.stepGain();
      out[i] = (chunk.samples[chunk.at] ?? 0) * this.gain * this.fade;
      chunk.at += 1;
      this.waitingSamples -= 1;
      if (counted && this.position) this.position.playedSamples += 1;
    }
    if (counted) this.settle();
  }

  /** Report at once, not with the next block, that a response has been heard to its end. */
  settle() {
    while (this.chunks[0] && this.chunks[0].at >= this.chunks[0].samples.length) this.chunks.shift();
    const position = this.position;
    if (!position || !this.ended.has(position.responseId)) return;
    if (this.chunks.some((chunk) => chunk.responseId === position.responseId)) return;
    this.finish(position.responseId);
    if (this.chunks.length === 0) this.flowing = false;
  }

  /**
   * @param {boolean} counted
   * @returns {Chunk | undefined} the chunk that the next sample comes from
   */
  head(counted) {
    while (this.chunks[0] && this.chunks[0].at >= this.chunks[0].samples.length) this.chunks.shift();
    const chunk = this.chunks[0];
    if (!counted) return chunk;
    const current = this.position;
    if (!chunk) {
      this.runDry();
      return undefined;
    }
    if (current?.responseId !== chunk.responseId) {
      if (current) this.finish(current.responseId);
      this.position = { responseId: chunk.responseId, itemId: chunk.itemId, playedSamples: 0 };
      this.happenings.push({ kind: "started", responseId: chunk.responseId });
    }
    return chunk;
  }

  runDry() {
    this.flowing = false;
    this.fade = 0;
    const current = this.position;
    if (!current) return;
    if (this.ended.has(current.responseId)) this.finish(current.responseId);
    else this.happenings.push({ kind: "underrun" });
  }

  /** @param {string} responseId */
  finish(responseId) {
    this.ended.delete(responseId);
    this.position = null;
    this.happenings.push({ kind: "stopped", responseId });
  }

  stepGain() {
    if (this.gain === this.targetGain) return;
    this.gain += this.gainStep;
    const passed = this.gainStep >= 0 ? this.gain >= this.targetGain : this.gain <= this.targetGain;
    if (passed) this.gain = this.targetGain;
  }

  /** @returns {Happening[]} what happened since the last call */
  takeHappenings() {
    const taken = this.happenings;
    this.happenings = [];
    return taken;
  }
}
