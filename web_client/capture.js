/**
 * What is made of sound that comes in: the loudness of every 20 ms, two at a time, and, while asked for, samples for the wire.
 *
 * A plain machine for whoever reads a microphone. The samples leave at `WIRE_RATE_HZ` in pieces of `CHUNK_MS`, as Int16Array.
 *
 * @typedef {{ samples: boolean }} CaptureOrder whether samples are wanted from now on; at first they are not
 * @typedef {{ type: "levels", rms: number[] } | { type: "chunk", samples: Int16Array }} CaptureReport
 */

import { toInt16 } from "./pcm.js";
import { StreamResampler } from "./resample.js";
import { SliceMeter } from "./slice_meter.js";
import { WIRE_RATE_HZ } from "./wire.js";

/** Length of the pieces in which samples are handed out: the server's clock ticks every 20 ms; two halve the messages. */
const CHUNK_MS = 40;

export class Capture {
  /**
   * @param {number} rateHz of what comes in
   * @param {(report: CaptureReport) => void} report
   */
  constructor(rateHz, report) {
    this.rateHz = rateHz;
    this.report = report;
    this.meter = new SliceMeter(rateHz, (levels) => this.report({ type: "levels", rms: levels }));
    /** @type {StreamResampler | null} only while samples are wanted */
    this.resampler = null;
    this.chunk = new Float32Array((WIRE_RATE_HZ * CHUNK_MS) / 1000);
    this.chunkFill = 0;
  }

  /** @param {CaptureOrder} order */
  obey(order) {
    this.resampler = order.samples ? new StreamResampler(this.rateHz, WIRE_RATE_HZ) : null;
    this.chunkFill = 0;
  }

  /** @param {Float32Array[]} channels of equal length; without any nothing happens */
  push(channels) {
    const block = channels[0];
    if (!block) return;
    const mono = channels.length > 1 ? mixDown(channels) : block;
    this.meter.push(mono);
    if (this.resampler) this.collect(this.resampler.push(mono));
  }

  /** @param {Float32Array} samples */
  collect(samples) {
    let rest = samples;
    while (rest.length > 0) {
      const part = rest.subarray(0, this.chunk.length - this.chunkFill);
      this.chunk.set(part, this.chunkFill);
      this.chunkFill += part.length;
      rest = rest.subarray(part.length);
      if (this.chunkFill === this.chunk.length) {
        this.chunkFill = 0;
        this.report({ type: "chunk", samples: toInt16(this.chunk) });
      }
    }
  }
}

/**
 * @param {Float32Array[]} channels
 * @returns {Float32Array} their mean
 */
function mixDown(channels) {
  const out = new Float32Array(channels[0]?.length ?? 0);
  for (const channel of channels) {
    for (let i = 0; i < out.length; i += 1) out[i] = (out[i] ?? 0) + (channel[i] ?? 0) / channels.length;
  }
  return out;
}
