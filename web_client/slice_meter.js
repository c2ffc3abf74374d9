/** Loudness of sound, slice by slice of 20 ms, in whatever pieces it comes. A plain machine. */

import { rms } from "./pcm.js";
import { SLICE_MS, SLICES_PER_REPORT } from "./worklet_names.js";

export class SliceMeter {
  /**
   * @param {number} rateHz of what is measured
   * @param {(levels: number[]) => void} report given the RMS of `SLICES_PER_REPORT` slices at a time
   */
  constructor(rateHz, report) {
    this.report = report;
    this.slice = new Float32Array(Math.round((rateHz * SLICE_MS) / 1000));
    this.fill = 0;
    /** @type {number[]} */
    this.levels = [];
  }

  /** @param {Float32Array} samples */
  push(samples) {
    let rest = samples;
    while (rest.length > 0) {
      const part = rest.subarray(0, this.slice.length - this.fill);
      this.slice.set(part, this.fill);
      this.fill += part.length;
      rest = rest.subarray(part.length);
      if (this.fill < this.slice.length) continue;
      this.fill = 0;
      this.levels.push(rms(this.slice));
      if (this.levels.length < SLICES_PER_REPORT) continue;
      this.report(this.levels);
      this.levels = [];
    }
  }
}
