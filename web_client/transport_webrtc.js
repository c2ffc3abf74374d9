/**
 * The conversation over WebRTC: Opus on media tracks, events on the data channel `oai-events`.
 *
 * @import { ClientEvent, Quality, ServerEvent, Transport, TransportListener } from "./types.js"
 * @import { Counters } from "./quality.js"
 * @import { Room } from "./audio_nodes.js"
 */

import { authorization, CONNECT_TIMEOUT_MS, ConnectError, iceServers, loss, request } from "./access.js";
import { Listener } from "./audio_nodes.js";
import { PlayedClock } from "./played_clock.js";
import { lossBetween, readCounters } from "./quality.js";
import { decodeServerEvent } from "./wire.js";

/** Where calls are made. */
const CALLS = "/v1/realtime/calls";

/** The offer is sent after this even if a network interface has not answered by then. */
const GATHER_LIMIT_MS = 1500;

/** A connection that is "disconnected" may heal by itself for this long; then another network path is looked for ... */
const HEAL_AFTER_MS = 1200;
/** ... this often ... */
const HEAL_EVERY_MS = 2500;
/** ... and for this long. The server gives a silent peer up after 8 s. */
const HEAL_LIMIT_MS = 8000;

/** How often the played position is brought up to date. */
const POSITION_EVERY_MS = 40;

/** The server says that it has sent all; the listener has heard all after this much silence ... */
const HEARD_OUT_MS = 200;
/** ... or after this, whatever is heard: longer than any jitter buffer. */
const HEARD_OUT_LIMIT_MS = 1500;
/** Loudness that is silence: −54 dB. */
const SILENCE_RMS = 0.002;

/** The model looks about once a second; more pictures would be thrown away. */
const CAMERA_FRAMES_PER_S = 2;
const CAMERA_BITRATE = 250_000;

/** Length of the browser's jitter buffer that is asked for; it grows by itself where the network needs it. */
const JITTER_TARGET_MS = 20;

/** Largest data channel message where the peers agreed on none. Source: RFC 8841 §6. */
const DEFAULT_MESSAGE_BYTES = 65_536;

/** @implements {Transport} */
export class WebRtcTransport {
  /**
   * @param {TransportListener} listener
   * @param {{ apiKey: string, microphone: MediaStreamTrack | null, loudspeaker: string, cameraTrack: boolean, room: Room }} options
   *   `cameraTrack`: whether the camera may be sent as a video track
   */
  constructor(listener, options) {
    /** @type {"webrtc"} */
    this.kind = "webrtc";
    this.listener = listener;
    this.options = options;
    /** @type {RTCPeerConnection | null} */
    this.peer = null;
    /** @type {RTCDataChannel | null} */
    this.channel = null;
    /** @type {RTCRtpTransceiver | null} */
    this.camera = null;
    /** @type {RTCRtpTransceiver | null} */
    this.audio = null;
    this.call = "";
    this.greeted = false;
    this.speaker = new Audio();
    this.monitor = new Listener(options.room, (report) => {
      if (report.type === "levels") this.monitored(report.rms);
    });
    this.loudAtMs = 0;
    /** @type {{ responseId: string, sinceMs: number } | null} all of it is sent, but perhaps not heard */
    this.ending = null;
    this.clock = new PlayedClock();
    /** @type {Map<string, string>} response id to item id, of the responses not yet heard to their end */
    this.items = new Map();
    this.ticker = 0;
    this.healTimer = 0;
    this.stalledAtMs = 0;
    /** @type {Counters | null} */
    this.counters = null;
    this.closed = false;
  }

  get maxMessageBytes() {
    return this.peer?.sctp?.maxMessageSize ?? DEFAULT_MESSAGE_BYTES;
  }

  /**
   * Connect. Resolves when the server has greeted over the data channel.
   *
   * @returns {Promise<void>}
   * @throws {ConnectError}
   */
  async open() {
    const signal = AbortSignal.timeout(CONNECT_TIMEOUT_MS);
    const servers = await iceServers(this.options.apiKey, signal);
    const peer = new RTCPeerConnection({ iceServers: servers });
    this.peer = peer;
    const channel = peer.createDataChannel("oai-events", { ordered: true });
    this.channel = channel;
    this.addMedia(peer);
    peer.ontrack = (track) => this.play(track);
    peer.onconnectionstatechange = () => this.connectionChanged(peer.connectionState);
    const greeted = this.greeting(channel, signal);
    // The offer may fail first; the greeting's own failure is then nobody's concern.
    greeted.catch(() => {});
    await this.negotiate(peer, signal);
    await greeted;
    this.ticker = window.setInterval(() => this.tick(), POSITION_EVERY_MS);
  }

  /** @param {RTCPeerConnection} peer */
  addMedia(peer) {
    const { microphone, cameraTrack } = this.options;
    // Both directions even without a microphone, so that one can be plugged in later.
    this.audio = peer.addTransceiver(microphone ?? "audio", { direction: "sendrecv", streams: [new MediaStream()] });
    if (this.audio.receiver.jitterBufferTarget !== undefined) this.audio.receiver.jitterBufferTarget = JITTER_TARGET_MS;
    if (!cameraTrack) return;
    this.camera = peer.addTransceiver("video", {
      direction: "sendonly",
      sendEncodings: [{ maxFramerate: CAMERA_FRAMES_PER_S, maxBitrate: CAMERA_BITRATE }],
    });
  }

  /**
   * @param {RTCPeerConnection} peer
   * @param {AbortSignal} signal
   * @throws {ConnectError}
   */
  async negotiate(peer, signal) {
    await peer.setLocalDescription(await peer.createOffer());
    await gathered(peer);
    const sdp = await this.offer(peer, CALLS, signal);
    if (this.closed) this.hangUp();
    else await peer.setRemoteDescription({ type: "answer", sdp });
  }

  /**
   * @param {RTCPeerConnection} peer
   * @param {string} path where calls are made, or the call that this is about
   * @param {AbortSignal} signal
   * @returns {Promise<string>} the answer
   * @throws {ConnectError}
   */
  async offer(peer, path, signal) {
    const response = await request(path, {
      method: "POST",
      headers: { "Content-Type": "application/sdp", ...authorization(this.options.apiKey) },
      body: peer.localDescription?.sdp ?? "",
      signal,
    });
    this.call = response.headers.get("Location") ?? this.call;
    return response.text();
  }

  /**
   * @param {RTCDataChannel} channel
   * @param {AbortSignal} signal
   * @returns {Promise<void>}
   */
  greeting(channel, signal) {
    return new Promise((resolve, reject) => {
      const fail = () => reject(new ConnectError(loss("media_path")));
      signal.addEventListener("abort", fail, { once: true });
      this.peer?.addEventListener("connectionstatechange", () => {
        if (this.peer?.connectionState === "failed") fail();
      });
      channel.onmessage = (message) => {
        if (this.closed || typeof message.data !== "string") return;
        const event = decodeServerEvent(message.data);
        this.received(event);
        if (event.type !== "session.created") return;
        this.greeted = true;
        signal.removeEventListener("abort", fail);
        resolve();
      };
      channel.onclose = () => {
        this.call = ""; // the server has ended it
        if (!this.greeted) fail();
        else if (!this.closed) this.listener.onLoss(loss("network"));
      };
    });
  }

  /** @param {ClientEvent} event */
  send(event) {
    if (this.channel?.readyState === "open") this.channel.send(JSON.stringify(event));
  }

  /** @param {ServerEvent} event */
  received(event) {
    const now = performance.now();
    switch (event.type) {
      case "response.output_item.added":
        this.items.set(event.response_id, event.item_id);
        break;
      case "output_audio_buffer.started":
        this.endNow();
        this.clock.start(event.response_id, now);
        break;
      case "playback.position":
        this.clock.correct(event.response_id, event.played_ms, now);
        break;
      case "output_audio_buffer.stopped":
        this.ending = { responseId: event.response_id, sinceMs: now };
        break;
      case "output_audio_buffer.cleared":
        this.clock.stop(now);
        break;
      default:
    }
    this.listener.onEvent(event);
    this.reportPlayback(event);
  }

  /** @param {ServerEvent} event */
  reportPlayback(event) {
    if (event.type === "output_audio_buffer.started") this.listener.onPlayback("started", event.response_id);
    if (event.type !== "output_audio_buffer.cleared") return;
    this.items.delete(event.response_id);
    this.listener.onPlayback("cleared", event.response_id);
  }

  /** @param {readonly number[]} levels of the model's voice as it is played */
  monitored(levels) {
    if (Math.max(...levels) >= SILENCE_RMS) this.loudAtMs = performance.now();
    this.listener.onModelLevels(levels);
  }

  tick() {
    const now = performance.now();
    const item = this.items.get(this.clock.responseId);
    if (item && this.clock.running) this.listener.onPlayed(item, this.clock.playedMs(now));
    if (!this.ending) return;
    const silentMs = now - Math.max(this.loudAtMs, this.ending.sinceMs);
    if (silentMs >= HEARD_OUT_MS || now - this.ending.sinceMs >= HEARD_OUT_LIMIT_MS) this.endNow();
  }

  /** What was sent has been heard. */
  endNow() {
    const ended = this.ending;
    if (!ended) return;
    this.ending = null;
    this.clock.stop(performance.now());
    this.items.delete(ended.responseId);
    this.listener.onPlayback("stopped", ended.responseId);
  }

  /** @param {RTCTrackEvent} track */
  play(track) {
    if (track.track.kind !== "audio") return;
    const stream = track.streams[0] ?? new MediaStream([track.track]);
    this.speaker.srcObject = stream;
    void this.setLoudspeaker(this.options.loudspeaker);
    // A tab that lost the user's gesture may refuse; the person can press start again.
    this.speaker.play().catch(() => this.listener.onLoss(loss("refused")));
    this.monitor.listenTo(stream);
  }

  /** @param {RTCPeerConnectionState} state */
  connectionChanged(state) {
    window.clearTimeout(this.healTimer);
    if (this.closed || !this.greeted) return;
    if (state === "connected" && this.stalledAtMs > 0) {
      this.stalledAtMs = 0;
      this.listener.onStall(false);
    }
    if (state !== "disconnected" && state !== "failed") return;
    if (this.stalledAtMs === 0) {
      this.stalledAtMs = performance.now();
      this.listener.onStall(true);
    }
    this.healTimer = window.setTimeout(() => void this.heal(), state === "failed" ? 0 : HEAL_AFTER_MS);
  }

  /** Look for another network path for the same conversation: the person may have changed from Wi-Fi to mobile. */
  async heal() {
    const peer = this.peer;
    if (!peer || this.closed || this.stalledAtMs === 0) return;
    const hopeless = performance.now() - this.stalledAtMs > HEAL_LIMIT_MS;
    try {
      if (hopeless) throw new ConnectError(loss("network"));
      peer.restartIce();
      await peer.setLocalDescription();
      await gathered(peer);
      await peer.setRemoteDescription({ type: "answer", sdp: await this.offer(peer, this.call, AbortSignal.timeout(HEAL_LIMIT_MS)) });
    } catch (error) {
      const refused = error instanceof ConnectError && error.loss.reason !== "network";
      if (refused) this.call = ""; // the server does not know it any more
      if ((refused || hopeless) && !this.closed) this.listener.onLoss(loss("network"));
      if (refused || hopeless) return;
      await peer.setLocalDescription({ type: "rollback" }).catch(() => {});
    }
    if (!this.closed) this.healTimer = window.setTimeout(() => void this.heal(), HEAL_EVERY_MS);
  }

  /** Sound goes by the microphone's track. */
  sendSamples() {}

  get backlogBytes() {
    return this.channel?.bufferedAmount ?? 0;
  }

  /** The server holds what has not been heard, and has dropped it already. */
  flush() {}

  /** The server lowers the voice before it sends it. */
  duck() {}

  /** @param {MediaStreamTrack | null} track */
  async setMicrophone(track) {
    await this.audio?.sender.replaceTrack(track);
  }

  /** @param {MediaStreamTrack | null} track */
  async setCameraTrack(track) {
    await this.camera?.sender.replaceTrack(track);
    return this.camera !== null;
  }

  /** @param {string} deviceId "" for the default */
  async setLoudspeaker(deviceId) {
    if (deviceId !== (this.speaker.sinkId ?? "")) await this.speaker.setSinkId?.(deviceId);
  }

  /** @returns {Promise<Quality>} */
  async quality() {
    /** @type {Record<string, unknown>[]} */
    const reports = [];
    (await this.peer?.getStats())?.forEach((report) => reports.push(report));
    const counters = readCounters(reports);
    const share = this.counters ? lossBetween(this.counters, counters) : null;
    this.counters = counters;
    this.clock.delayMs = (counters.bufferDelayMs ?? 0) + (counters.rttMs ?? 0) / 2;
    return {
      kind: this.kind,
      rttMs: counters.rttMs,
      jitterMs: counters.jitterMs,
      loss: share,
      bufferedBytes: null,
      underruns: null,
    };
  }

  hangUp() {
    if (!this.call) return;
    // `keepalive` lets the request outlive the page, so that the place on the server is free at once.
    void fetch(`${this.call}/hangup`, {
      method: "POST",
      keepalive: true,
      headers: authorization(this.options.apiKey),
    }).catch(() => {});
    this.call = "";
  }

  close() {
    if (this.closed) return;
    this.closed = true;
    window.clearInterval(this.ticker);
    window.clearTimeout(this.healTimer);
    this.hangUp();
    this.monitor.close();
    this.speaker.pause();
    this.speaker.srcObject = null;
    this.channel?.close();
    this.peer?.close();
  }
}

/**
 * @param {RTCPeerConnection} peer
 * @returns {Promise<void>} when all candidates are known, or the limit has passed
 */
function gathered(peer) {
  if (peer.iceGatheringState === "complete") return Promise.resolve();
  return new Promise((resolve) => {
    const limit = setTimeout(resolve, GATHER_LIMIT_MS);
    peer.addEventListener("icegatheringstatechange", () => {
      if (peer.iceGatheringState !== "complete") return;
      clearTimeout(limit);
      resolve();
    });
  });
}
