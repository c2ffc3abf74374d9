/**
 * The browser's audio graph for this page: listening to a stream, and the player of the WebSocket transport.
 *
 * Knows nothing about the protocol.
 *
 * @import { CaptureOrder, CaptureReport } from "./capture_worklet.js"
 */

import { CAPTURE_PROCESSOR, PLAYBACK_PROCESSOR } from "./worklet_names.js";
import { WIRE_RATE_HZ } from "./wire.js";

/**
 * Make an audio context. Must be called from a user's gesture, or it stays silent.
 *
 * @param {number} [rateHz] the device's own rate where not given
 * @returns {AudioContext}
 */
function makeContext(rateHz) {
  return new AudioContext({ latencyHint: "interactive", ...(rateHz ? { sampleRate: rateHz } : {}) });
}

/** Listens to one stream; reports loudness, and samples while asked to. */
export class Listener {
  /** @param {(report: CaptureReport) => void} report */
  constructor(report) {
    this.context = makeContext();
    this.report = report;
    /** @type {MediaStreamAudioSourceNode | null} */
    this.source = null;
    /** @type {AudioWorkletNode | null} */
    this.node = null;
  }

  async prepare() {
    await this.context.audioWorklet.addModule(new URL("./capture_worklet.js", import.meta.url));
    this.node = new AudioWorkletNode(this.context, CAPTURE_PROCESSOR, {
      numberOfInputs: 1,
      numberOfOutputs: 0,
    });
    this.node.port.onmessage = (message) => this.report(message.data);
    await this.context.resume();
  }

  /** @param {CaptureOrder} order */
  order(order) {
    this.node?.port.postMessage(order);
  }

  /** @param {MediaStream | null} stream */
  listenTo(stream) {
    this.source?.disconnect();
    this.source = stream && stream.getAudioTracks().length > 0 ? this.context.createMediaStreamSource(stream) : null;
    if (this.source && this.node) this.source.connect(this.node);
  }

  close() {
    this.source?.disconnect();
    if (this.node) this.node.port.onmessage = null;
    void this.context.close();
  }
}

/** Plays what it is given by `node.port`; see the playback worklet for orders and reports. */
export class Player {
  constructor() {
    this.context = makeContext(WIRE_RATE_HZ);
    /** @type {AudioWorkletNode | null} */
    this.node = null;
  }

  /** @returns {Promise<AudioWorkletNode>} connected to the loudspeaker */
  async prepare() {
    await this.context.audioWorklet.addModule(new URL("./playback_worklet.js", import.meta.url));
    this.node = new AudioWorkletNode(this.context, PLAYBACK_PROCESSOR, {
      numberOfInputs: 0,
      numberOfOutputs: 1,
      outputChannelCount: [1],
    });
    this.node.connect(this.context.destination);
    await this.context.resume();
    return this.node;
  }

  /** @returns {number} time between a sample leaving the worklet and being heard, ms */
  get latencyMs() {
    return ((this.context.outputLatency || this.context.baseLatency) ?? 0) * 1000;
  }

  /** @param {string} deviceId "" for the default */
  async setLoudspeaker(deviceId) {
    await this.context.setSinkId?.(deviceId);
  }

  close() {
    if (this.node) this.node.port.onmessage = null;
    void this.context.close();
  }
}
