/**
 * Loudness over time: a bounded history, and numbers fit for a meter.
 *
 * Pure. The history of the model's voice is what this device really played.
 *
 * @import { LevelSample } from "./types.js"
 */

/** Slices kept: 2 minutes of 20 ms each; the oldest goes. */
const KEPT = 6000;

/** What the meters show as empty and as full, dB below full scale. Speech at a normal distance lies between. */
const FLOOR_DB = -54;
const CEILING_DB = -12;

/** How fast a meter falls, share per slice; it rises at once. About 200 ms to fall by half. */
const FALL = 0.93;

/**
 * @param {number} rms
 * @returns {number} 0..1, even steps in decibels
 */
export function meterValue(rms) {
  if (rms <= 0) return 0;
  const db = 20 * Math.log10(rms);
  return Math.max(0, Math.min(1, (db - FLOOR_DB) / (CEILING_DB - FLOOR_DB)));
}

export class LevelHistory {
  constructor() {
    /** @type {LevelSample[]} oldest first, bounded by KEPT */
    this.samples = [];
    /** Meter position now, 0..1. */
    this.meter = 0;
  }

  /**
   * @param {number} rms of one slice
   * @param {number} atMs its end
   */
  push(rms, atMs) {
    this.samples.push({ t: atMs, rms });
    if (this.samples.length > KEPT) this.samples.splice(0, this.samples.length - KEPT);
    this.meter = Math.max(meterValue(rms), this.meter * FALL);
  }

  /** Let the meter fall where no sound arrives any more. */
  rest() {
    this.meter *= FALL;
  }
}

/** Largest difference between a slice's place in the stream and its arrival that is taken for jitter of the message. */
const SLICE_JITTER_MS = 60;

/** Gives slices that arrive unevenly the even times at which they were heard. */
export class SliceClock {
  /** @param {number} slice_ms */
  constructor(slice_ms) {
    this.slice_ms = slice_ms;
    this.atMs = Number.NEGATIVE_INFINITY;
  }

  /**
   * @param {number} nowMs when the slice arrived
   * @returns {number} when it ended
   */
  next(nowMs) {
    this.atMs += this.slice_ms;
    if (Math.abs(nowMs - this.atMs) > SLICE_JITTER_MS) this.atMs = nowMs;
    return this.atMs;
  }
}
