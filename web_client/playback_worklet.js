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
import { SliceMeter } from "./slice_meter.js";
import { PLAYBACK_PROCESSOR } from "./worklet_names.js";

class PlaybackProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.buffer = new PlayoutBuffer(sampleRate);
    this.meter = new SliceMeter(sampleRate, (levels) => this.tellLevels(levels));
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
    this.meter.push(first);
    return true;
  }

  /** @param {number[]} levels */
  tellLevels(levels) {
    const position = this.buffer.position ? { ...this.buffer.position } : null;
    this.tell({ type: "report", rms: levels, position, happenings: this.buffer.takeHappenings() });
  }
}

registerProcessor(PLAYBACK_PROCESSOR, PlaybackProcessor);
