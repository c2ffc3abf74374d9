/**
 * Listens to one audio input: reports the loudness of every 20 ms, two at a time, and, while asked to, the samples for the wire.
 *
 * Runs in the audio thread. The samples leave at `WIRE_RATE_HZ` in pieces of `CHUNK_MS`, as Int16Array.
 *
 * @typedef {{ samples: boolean }} CaptureOrder whether samples are wanted from now on; at first they are not
 * @typedef {{ type: "levels", rms: number[] } | { type: "chunk", samples: Int16Array }} CaptureReport
 */

import { rms, toInt16 } from "./pcm.js";
import { StreamResampler } from "./resample.js";
import { WIRE_RATE_HZ } from "./wire.js";
import { CAPTURE_PROCESSOR, SLICE_MS, SLICES_PER_REPORT } from "./worklet_names.js";

/** Length of the pieces in which samples are handed out: the server's clock ticks every 20 ms; two halve the messages. */
const CHUNK_MS = 40;

class CaptureProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.slice = new Float32Array(Math.round((sampleRate * SLICE_MS) / 1000));
    this.sliceFill = 0;
    /** @type {number[]} */
    this.levels = [];
    /** @type {StreamResampler | null} only while samples are wanted */
    this.resampler = null;
    this.chunk = new Float32Array((WIRE_RATE_HZ * CHUNK_MS) / 1000);
    this.chunkFill = 0;
    this.port.onmessage = (message) => this.obey(message.data);
  }

  /** @param {CaptureOrder} order */
  obey(order) {
    this.resampler = order.samples ? new StreamResampler(sampleRate, WIRE_RATE_HZ) : null;
    this.chunkFill = 0;
  }

  /**
   * @param {Float32Array[][]} inputs
   * @returns {boolean}
   */
  process(inputs) {
    const channels = inputs[0] ?? [];
    const block = channels[0];
    if (!block) return true;
    const mono = channels.length > 1 ? mixDown(channels) : block;
    this.measure(mono);
    if (this.resampler) this.collect(this.resampler.push(mono));
    return true;
  }

  /** @param {Float32Array} samples */
  measure(samples) {
    let rest = samples;
    while (rest.length > 0) {
      const part = rest.subarray(0, this.slice.length - this.sliceFill);
      this.slice.set(part, this.sliceFill);
      this.sliceFill += part.length;
      rest = rest.subarray(part.length);
      if (this.sliceFill === this.slice.length) {
        this.sliceFill = 0;
        this.levels.push(rms(this.slice));
        if (this.levels.length < SLICES_PER_REPORT) continue;
        this.port.postMessage(/** @type {CaptureReport} */ ({ type: "levels", rms: this.levels }));
        this.levels = [];
      }
    }
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
        this.port.postMessage(/** @type {CaptureReport} */ ({ type: "chunk", samples: toInt16(this.chunk) }));
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

registerProcessor(CAPTURE_PROCESSOR, CaptureProcessor);
