/**
 * The conversation over one WebSocket: samples as base64 both ways, played by a ring buffer whose position is exact.
 *
 * @import { ClientEvent, Quality, ServerEvent, Transport, TransportListener } from "./types.js"
 * @import { PlaybackOrder, PlaybackReport } from "./playback_worklet.js"
 * @import { Happening, Position } from "./playout_buffer.js"
 */

import { CONNECT_TIMEOUT_MS, iceServers, loss, lossOfClose } from "./access.js";
import { Player } from "./audio_nodes.js";
import { Greeting } from "./greeting.js";
import { decodeBase64, encodeBase64, toFloat } from "./pcm.js";
import { Resumption } from "./resumption.js";
import { decodeServerEvent, WIRE_RATE_HZ } from "./wire.js";

/** The server is told how far playback is this often while sound plays. */
const ACK_EVERY_MS = 200;

/** A sign of life is asked for this often; its way there and back is the connection's delay. */
const HEARTBEAT_EVERY_MS = 2000;

/** A server that has answered before and is silent for this long is gone. */
const SILENCE_LIMIT_MS = 6000;

/** While it is not decided whether the person interrupts, the voice sounds this much softer (−18 dB), as it does over
 * WebRTC, where the server lowers it: fast down, gently up, without a click. */
const DUCKED_GAIN = 0.126;
const DUCK_MS = 15;
const RESTORE_MS = 80;

/** A connection that broke is made again for this long, which is how long the server waits; then the page starts anew. */
const RESUME_LIMIT_MS = 30_000;
const RESUME_EVERY_MS = 700;

/** Ends a socket that is given up, and not the conversation: the codes of a goodbye would. */
const COMING_BACK = 4000;

/** Microphone audio is dropped rather than queued beyond this much unsent: about 4 s; the network has stalled. */
const SEND_LIMIT_BYTES = 256 * 1024;

/** @implements {Transport} */
export class WebSocketTransport {
  /**
   * @param {TransportListener} listener
   * @param {{ apiKey: string, loudspeaker: string }} options
   */
  constructor(listener, options) {
    /** @type {"websocket"} */
    this.kind = "websocket";
    /** The server takes frames up to 16 MiB; a picture needs far less. */
    this.maxMessageBytes = 1024 * 1024;
    this.listener = listener;
    this.options = options;
    this.player = new Player();
    /** @type {WebSocket | null} */
    this.socket = null;
    /** @type {AudioWorkletNode | null} */
    this.speaker = null;
    this.ackedAtMs = 0;
    this.underruns = 0;
    this.heartbeatAtMs = 0;
    /** @type {number | null} */
    this.rttMs = null;
    this.heartbeat = 0;
    this.greeting = new Greeting(loss("network"));
    this.greeted = false;
    this.closed = false;
    this.resumption = new Resumption();
    /** Since when the connection has been broken; 0 while it stands. */
    this.brokenAtMs = 0;
    this.retry = 0;
  }

  /**
   * Connect. Resolves when the server has greeted, which takes long where there is a line.
   *
   * @returns {Promise<void>}
   * @throws {ConnectError}
   */
  async open() {
    const signal = AbortSignal.timeout(CONNECT_TIMEOUT_MS);
    // A browser does not say why a handshake failed; this request does.
    await iceServers(this.options.apiKey, signal);
    this.speaker = await this.player.prepare();
    this.speaker.port.onmessage = (message) => this.reported(message.data);
    if (this.options.loudspeaker) await this.player.setLoudspeaker(this.options.loudspeaker);
    this.connect();
    await this.greeting.done;
    this.heartbeat = window.setInterval(() => this.beat(), HEARTBEAT_EVERY_MS);
  }

  connect() {
    const socket = this.dial("resume=1&queue=1");
    this.socket = socket;
    socket.onmessage = (message) => {
      if (this.closed || typeof message.data !== "string") return;
      const event = decodeServerEvent(message.data);
      this.resumption.received(message.data);
      this.received(event);
      if (event.type === "session.created") this.greeted = true;
      this.greeting.received(event);
    };
    socket.onclose = (close) => {
      const why = lossOfClose(close.code, close.reason);
      // The key was accepted a moment ago: a handshake that fails now has found no place, not even in the line.
      if (!this.greeted) this.greeting.fail(close.code === 1006 && !this.greeting.begun ? loss("full") : why);
      else if (!this.closed && socket === this.socket) this.broke(why);
    };
  }

  /**
   * @param {string} query
   * @returns {WebSocket}
   */
  dial(query) {
    const url = new URL(`/v1/realtime?${query}`, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const protocols = ["realtime"];
    if (this.options.apiKey) protocols.push(`openai-insecure-api-key.${this.options.apiKey}`);
    return new WebSocket(url, protocols);
  }

  /** @param {ReturnType<typeof loss>} why */
  broke(why) {
    if (why.reason !== "network" || !this.resumption.possible) {
      this.listener.onLoss(why);
      return;
    }
    if (this.brokenAtMs === 0) {
      this.brokenAtMs = performance.now();
      this.listener.onStall(true);
    }
    this.heartbeatAtMs = 0;
    if (performance.now() - this.brokenAtMs > RESUME_LIMIT_MS) this.listener.onLoss(why);
    else this.retry = window.setTimeout(() => this.resume(), RESUME_EVERY_MS);
  }

  /** Go on with the conversation over a new socket: take what was missed, give what did not arrive. */
  resume() {
    if (this.closed) return;
    const socket = this.dial("autostart=0");
    this.socket = socket;
    const slow = window.setTimeout(() => socket.close(COMING_BACK), SILENCE_LIMIT_MS);
    let over = false;
    socket.onopen = () => socket.send(this.resumption.request());
    socket.onmessage = (message) => {
      if (this.closed || socket !== this.socket || typeof message.data !== "string") return;
      const { type, nArrived } = this.resumption.received(message.data);
      if (type === "session.resumed") {
        window.clearTimeout(slow);
        for (const missing of this.resumption.missing(nArrived)) socket.send(missing);
        this.brokenAtMs = 0;
        this.listener.onStall(false);
        return;
      }
      over = over || this.brokenAtMs > 0;  // an answer that is not session.resumed: it is refused
      this.received(decodeServerEvent(message.data));
    };
    socket.onclose = (close) => {
      window.clearTimeout(slow);
      if (this.closed || socket !== this.socket) return;
      if (over) this.listener.onLoss(loss("network"));
      else this.broke(lossOfClose(close.code, close.reason));
    };
  }

  /** @param {ClientEvent} event */
  send(event) {
    const message = JSON.stringify(event);
    if (!this.greeted) {
      if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(message);
      return;
    }
    this.resumption.sent(message);
    if (this.brokenAtMs === 0 && this.socket?.readyState === WebSocket.OPEN) this.socket.send(message);
  }

  beat() {
    const now = performance.now();
    if (this.heartbeatAtMs > 0) {
      // A socket whose peer has vanished stays "open" for minutes, and longer when it is told to close.
      if (this.rttMs !== null && now - this.heartbeatAtMs > SILENCE_LIMIT_MS) this.giveUp();
      return;
    }
    if (this.brokenAtMs > 0) return;
    this.heartbeatAtMs = now;
    this.send({ type: "session.heartbeat" });
  }

  giveUp() {
    const socket = this.socket;
    if (!socket) return;
    this.socket = null;
    socket.close(COMING_BACK);
    this.broke(loss("network"));
  }

  /** @param {Int16Array} samples */
  sendSamples(samples) {
    // What is sent before the server listens would wait there, and all that follows would be late by as much.
    if (!this.greeted || this.backlogBytes > SEND_LIMIT_BYTES) return;
    this.send({ type: "input_audio_buffer.append", audio: encodeBase64(samples) });
  }

  get backlogBytes() {
    return this.socket?.bufferedAmount ?? 0;
  }

  /** @param {ServerEvent} event */
  received(event) {
    if (event.type === "response.output_audio.delta") {
      const samples = toFloat(decodeBase64(event.delta));
      this.order({ type: "push", responseId: event.response_id, itemId: event.item_id, samples }, [samples.buffer]);
    } else if (event.type === "response.done") {
      this.order({ type: "end", responseId: event.response_id });
    } else if (event.type === "session.heartbeat_ack") {
      this.rttMs = performance.now() - this.heartbeatAtMs;
      this.heartbeatAtMs = 0;
    }
    this.listener.onEvent(event);
  }

  /**
   * @param {PlaybackOrder} order
   * @param {Transferable[]} [transfer]
   */
  order(order, transfer = []) {
    this.speaker?.port.postMessage(order, transfer);
  }

  /** @param {PlaybackReport} report */
  reported(report) {
    if (report.type === "flushed") {
      this.flushed(report.position);
      return;
    }
    for (const happening of report.happenings) this.happened(happening);
    const now = performance.now();
    this.listener.onModelLevels(report.rms);
    if (!report.position) return;
    const { itemId, responseId, playedMs } = this.heard(report.position);
    this.listener.onPlayed(itemId, playedMs);
    if (now - this.ackedAtMs < ACK_EVERY_MS) return;
    this.ackedAtMs = now;
    this.send({ type: "playback.ack", response_id: responseId, item_id: itemId, played_ms: playedMs });
  }

  /** @param {Happening} happening */
  happened(happening) {
    if (happening.kind === "underrun") this.underruns += 1;
    else this.listener.onPlayback(happening.kind, happening.responseId);
  }

  /**
   * @param {Position | null} position
   */
  flushed(position) {
    if (!position) return;
    const { itemId, responseId, playedMs } = this.heard(position);
    this.send({ type: "conversation.item.truncate", item_id: itemId, content_index: 0, audio_end_ms: playedMs });
    this.listener.onPlayed(itemId, playedMs);
    this.listener.onPlayback("cleared", responseId);
  }

  /**
   * @param {Position} position as the worklet counts
   * @returns {{ itemId: string, responseId: string, playedMs: number }} as the ear does
   */
  heard(position) {
    const renderedMs = (position.playedSamples / WIRE_RATE_HZ) * 1000;
    const playedMs = Math.max(0, Math.round(renderedMs - this.player.latencyMs));
    return { itemId: position.itemId, responseId: position.responseId, playedMs };
  }

  flush() {
    this.order({ type: "flush", ticket: 0 });
  }

  /** @param {boolean} on */
  duck(on) {
    this.order({ type: "gain", gain: on ? DUCKED_GAIN : 1, rampMs: on ? DUCK_MS : RESTORE_MS });
  }

  /** Over a WebSocket sound goes by `sendSamples`. */
  async setMicrophone() {}

  /** Over a WebSocket the camera goes as stills, by `send`. */
  async setCameraTrack() {
    return false;
  }

  /** @param {string} deviceId */
  async setLoudspeaker(deviceId) {
    await this.player.setLoudspeaker(deviceId);
  }

  /** @returns {Promise<Quality>} */
  async quality() {
    return {
      kind: this.kind,
      rttMs: this.rttMs,
      jitterMs: null,
      loss: null,
      bufferedBytes: this.backlogBytes,
      underruns: this.underruns,
    };
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    this.greeting.fail(loss("network"));
    window.clearInterval(this.heartbeat);
    window.clearTimeout(this.retry);
    this.player.close();
    this.socket?.close(1000);
  }
}
