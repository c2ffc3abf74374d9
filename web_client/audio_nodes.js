/**
 * The browser's audio graph for this page: listening to a stream, and the player of the WebSocket transport.
 *
 * Knows nothing about the protocol.
 *
 * @import { CaptureOrder, CaptureReport } from "./capture.js"
 */

import { CAPTURE_PROCESSOR, PLAYBACK_PROCESSOR } from "./worklet_names.js";
import { WIRE_RATE_HZ } from "./wire.js";

/**
 * Make an audio context. Must be called from a user's gesture, or it stays silent.
 *
 * @param {AudioContextOptions} options
 * @returns {AudioContext}
 */
function makeContext(options) {
  return new AudioContext({ latencyHint: "interactive", ...options });
}

/** What listens to streams without being heard; several listeners share one, for each costs a thread. */
export class Room {
  constructor() {
    // Browsers that know no context without a loudspeaker ignore the option, and play silence.
    this.context = makeContext({ sinkId: { type: "none" } });
    /** @type {Promise<void> | null} */
    this.ready = null;
  }

  /** @returns {Promise<void>} when listeners can be made */
  prepare() {
    this.ready ??= this.context.audioWorklet
      .addModule(new URL("./capture_worklet.js", import.meta.url))
      .then(() => this.context.resume());
    return this.ready;
  }

  close() {
    void this.context.close();
  }
}

/** Listens to one stream; reports loudness, and samples while asked to. */
export class Listener {
  /**
   * @param {Room} room that is prepared
   * @param {(report: CaptureReport) => void} report
   */
  constructor(room, report) {
    this.context = room.context;
    /** @type {MediaStreamAudioSourceNode | null} */
    this.source = null;
    this.node = new AudioWorkletNode(this.context, CAPTURE_PROCESSOR, { numberOfInputs: 1, numberOfOutputs: 0 });
    this.node.port.onmessage = (message) => report(message.data);
  }

  /** @param {CaptureOrder} order */
  order(order) {
    this.node.port.postMessage(order);
  }

  /** @param {MediaStream | null} stream */
  listenTo(stream) {
    this.source?.disconnect();
    this.source = stream && stream.getAudioTracks().length > 0 ? this.context.createMediaStreamSource(stream) : null;
    this.source?.connect(this.node);
  }

  close() {
    this.source?.disconnect();
    this.node.port.onmessage = null;
    this.node.port.close();
  }
}

/** Plays what it is given by `node.port`; see the playback worklet for orders and reports. */
export class Player {
  constructor() {
    this.context = makeContext({ sampleRate: WIRE_RATE_HZ });
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
