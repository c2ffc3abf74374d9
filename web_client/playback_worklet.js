/**
 * Plays the model's sound that came over the WebSocket and says, every 40 ms, exactly how much has been played.
 *
 * Runs in the audio thread, in an audio context at `WIRE_RATE_HZ`; all decisions are `PlayoutBuffer`'s.
 *
 * @import { Happening, Position } from "./playout_buffer.js"
 * @typedef {{ type: "push", responseId: string, itemId: string, samples: Float32Array }
 *   | { type: "end", responseId: string } | { type: "flush", ticket: number }
 *   | { type: "gain", gain: number, rampMs: number }} PlaybackOrder
 * @typedef {{ type: "report", rms: number[], position: Position | null, happenings: Happening[] }
 *   | { type: "flushed", ticket: number, position: Position | null }} PlaybackReport
 */

import { PlayoutBuffer } from "./playout_buffer.js";
import { rms } from "./pcm.js";
import { PLAYBACK_PROCESSOR, SLICE_MS, SLICES_PER_REPORT } from "./worklet_names.js";

class PlaybackProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.buffer = new PlayoutBuffer(sampleRate);
    this.slice = new Float32Array(Math.round((sampleRate * SLICE_MS) / 1000));
    this.sliceFill = 0;
    /** @type {number[]} */
    this.levels = [];
    this.port.onmessage = (message) => this.obey(message.data);
  }

  /** @param {PlaybackOrder} order */
  obey(order) {
    switch (order.type) {
      case "push":
        this.buffer.push(order.responseId, order.itemId, order.samples);
        break;
      case "end":
        this.buffer.end(order.responseId);
        break;
      case "gain":
        this.buffer.setGain(order.gain, order.rampMs);
        break;
      case "flush":
        this.tell({ type: "flushed", ticket: order.ticket, position: this.buffer.flush() });
        break;
    }
  }

  /** @param {PlaybackReport} report */
  tell(report) {
    this.port.postMessage(report);
  }

  /**
   * @param {Float32Array[][]} _inputs
   * @param {Float32Array[][]} outputs
   * @returns {boolean}
   */
  process(_inputs, outputs) {
    const channels = outputs[0] ?? [];
    const first = channels[0];
    if (!first) return true;
    this.buffer.render(first);
    for (const channel of channels.slice(1)) channel.set(first);
    this.measure(first);
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
      if (this.sliceFill < this.slice.length) continue;
      this.sliceFill = 0;
      this.levels.push(rms(this.slice));
      if (this.levels.length < SLICES_PER_REPORT) continue;
      const position = this.buffer.position ? { ...this.buffer.position } : null;
      this.tell({ type: "report", rms: this.levels, position, happenings: this.buffer.takeHappenings() });
      this.levels = [];
    }
  }
}

registerProcessor(PLAYBACK_PROCESSOR, PlaybackProcessor);
