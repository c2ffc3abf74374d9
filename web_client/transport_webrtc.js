/**
 * The conversation over WebRTC: Opus on media tracks, events on the data channel `oai-events`; over one call after
 * another where the network is lost for longer than a call can be mended.
 *
 * @import { ClientEvent, Quality, ServerEvent, Transport, TransportListener } from "./types.js"
 * @import { Counters } from "./quality.js"
 * @import { Room } from "./audio_nodes.js"
 */

import { CONNECT_TIMEOUT_MS, ConnectError, iceServers, loss } from "./access.js";
import { Listener } from "./audio_nodes.js";
import { Greeting } from "./greeting.js";
import { PlayedClock } from "./played_clock.js";
import { lossBetween, readCounters } from "./quality.js";
import { Resumption } from "./resumption.js";
import { RtcCall } from "./rtc_call.js";
import { TrackProgress } from "./track_progress.js";
import { decodeServerEvent } from "./wire.js";

/** How often the played position is brought up to date. */
const POSITION_EVERY_MS = 40;

/** The server says that it has sent all; the listener has heard all after this much silence ... */
const HEARD_OUT_MS = 200;
/** ... or after this, whatever is heard: longer than any jitter buffer. */
const HEARD_OUT_LIMIT_MS = 1500;
/** Loudness that is silence: −54 dB. */
const SILENCE_RMS = 0.002;

/** A call that cannot be mended is followed by another one, which is tried for this long: the server waits for 30 s ... */
const RESUME_LIMIT_MS = 30_000;
/** ... this often ... */
const RESUME_EVERY_MS = 700;
/** ... each time for this long. */
const RESUME_TIMEOUT_MS = 10_000;

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
    this.microphone = options.microphone;
    /** @type {MediaStreamTrack | null} */
    this.camera = null;
    /** @type {RtcCall | null} */
    this.call = null;
    /** Calls that came before. Closed when their successor stands; before, the server would take it for a goodbye.
     * @type {RtcCall[]} */
    this.former = [];
    this.greeting = new Greeting(loss("media_path"));
    this.greeted = false;
    this.resumption = new Resumption();
    this.progress = new TrackProgress();
    /** Since when there has been no call that stands; 0 while there is one. */
    this.brokenAtMs = 0;
    this.retry = 0;
    /** The server has said that the conversation is over. */
    this.over = false;
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
    /** @type {Counters | null} */
    this.counters = null;
    this.closed = false;
  }

  get maxMessageBytes() {
    return this.call?.peer.sctp?.maxMessageSize ?? DEFAULT_MESSAGE_BYTES;
  }

  /**
   * Connect. Resolves when the server has greeted over the data channel, which takes long where there is a line.
   *
   * @returns {Promise<void>}
   * @throws {ConnectError}
   */
  async open() {
    const signal = AbortSignal.timeout(CONNECT_TIMEOUT_MS);
    const call = await this.next(signal);
    await call.dial("?resume=1&queue=1", null, signal);
    await this.greeting.done;
    this.ticker = window.setInterval(() => this.tick(), POSITION_EVERY_MS);
  }

  /**
   * Prepare the next call, whose messages count from now on.
   *
   * @param {AbortSignal} signal
   * @returns {Promise<RtcCall>}
   * @throws {ConnectError}
   */
  async next(signal) {
    const servers = await iceServers(this.options.apiKey, signal);
    const { apiKey, cameraTrack } = this.options;
    /** @type {() => boolean} */
    const current = () => call === this.call && !this.closed;
    const call = new RtcCall(
      {
        onMessage: (message) => { if (current()) this.heard(message); },
        onSound: (stream) => { if (current()) this.play(stream); },
        onStall: (on) => { if (current()) this.stalled(on); },
        onGone: () => { if (current()) this.broke(); },
      },
      { apiKey, servers, microphone: this.microphone, video: cameraTrack, camera: cameraTrack ? this.camera : null },
    );
    if (this.closed) call.close();
    else {
      if (this.call) this.former.push(this.call);
      this.call = call;
    }
    return call;
  }

  /** @param {string} message */
  heard(message) {
    const { type, nArrived } = this.resumption.received(message);
    if (type === "session.resumed") {
      this.resumed(nArrived);
      return;
    }
    const event = decodeServerEvent(message);
    if (event.type === "session.closed") this.over = true;
    if (event.type === "session.created") this.greeted = true;
    this.received(event);
    this.greeting.received(event);
  }

  /** @param {boolean} on */
  stalled(on) {
    if (!this.greeted || this.brokenAtMs > 0) return;
    if (on) this.clock.hold(performance.now());
    else this.clock.go(performance.now());
    this.listener.onStall(on);
  }

  /** The call is gone: make another one and go on with the conversation, if the server has said how. */
  broke() {
    if (!this.greeted) {
      this.greeting.fail(loss(this.greeting.begun ? "network" : "media_path"));
      return;
    }
    if (this.over || !this.resumption.possible) {
      this.listener.onLoss(loss("network"));
      return;
    }
    const now = performance.now();
    if (this.brokenAtMs === 0) {
      this.brokenAtMs = now;
      this.clock.hold(now);
      this.listener.onStall(true);
    }
    window.clearTimeout(this.retry);
    if (now - this.brokenAtMs > RESUME_LIMIT_MS) this.listener.onLoss(loss("network"));
    else this.retry = window.setTimeout(() => void this.resume(), RESUME_EVERY_MS);
  }

  async resume() {
    if (this.closed) return;
    // Unless the server answers over the new call's channel meanwhile.
    this.retry = window.setTimeout(() => this.broke(), RESUME_TIMEOUT_MS);
    const signal = AbortSignal.timeout(RESUME_TIMEOUT_MS);
    try {
      const call = await this.next(signal);
      await call.dial("", { resume: this.resumption.asked(this.progress.playedMs) }, signal);
    } catch (error) {
      if (this.closed) return;
      const refused = error instanceof ConnectError && error.loss.reason !== "network";
      if (!refused) {
        this.broke();
        return;
      }
      window.clearTimeout(this.retry);
      this.listener.onLoss(loss("network")); // the server has it no more: a new conversation begins
    }
  }

  /** @param {number} nArrived messages of this page that the server has */
  resumed(nArrived) {
    window.clearTimeout(this.retry);
    this.brokenAtMs = 0;
    this.progress = new TrackProgress();
    this.counters = null;
    for (const call of this.former.splice(0)) call.close();
    for (const missing of this.resumption.missing(nArrived)) this.put(missing);
    this.clock.go(performance.now());
    this.listener.onStall(false);
  }

  /** @param {ClientEvent} event */
  send(event) {
    const message = JSON.stringify(event);
    if (this.greeted) this.resumption.sent(message);
    if (this.brokenAtMs === 0) this.put(message);
  }

  /** @param {string} message */
  put(message) {
    if (this.call?.channel.readyState === "open") this.call.channel.send(message);
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
    const playing = this.brokenAtMs === 0 ? this.call?.playing : null;
    if (typeof playing === "number") this.progress.note(playing);
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

  /** @param {MediaStream} stream */
  play(stream) {
    this.speaker.srcObject = stream;
    void this.setLoudspeaker(this.options.loudspeaker);
    // A tab that lost the user's gesture may refuse; the person can press start again. A call that another one has
    // followed aborts what it has begun.
    this.speaker.play().catch((error) => {
      if (error?.name !== "AbortError") this.listener.onLoss(loss("refused"));
    });
    this.monitor.listenTo(stream);
  }

  /** Sound goes by the microphone's track. */
  sendSamples() {}

  get backlogBytes() {
    return this.call?.channel.bufferedAmount ?? 0;
  }

  /** The server holds what has not been heard, and has dropped it already. */
  flush() {}

  /** The server lowers the voice before it sends it. */
  duck() {}

  /** @param {MediaStreamTrack | null} track */
  async setMicrophone(track) {
    this.microphone = track;
    await this.call?.audio.sender.replaceTrack(track);
  }

  /** @param {MediaStreamTrack | null} track */
  async setCameraTrack(track) {
    this.camera = track;
    await this.call?.camera?.sender.replaceTrack(track);
    return this.options.cameraTrack;
  }

  /** @param {string} deviceId "" for the default */
  async setLoudspeaker(deviceId) {
    if (deviceId !== (this.speaker.sinkId ?? "")) await this.speaker.setSinkId?.(deviceId);
  }

  /** @returns {Promise<Quality>} */
  async quality() {
    /** @type {Record<string, unknown>[]} */
    const reports = [];
    (await this.call?.peer.getStats())?.forEach((report) => reports.push(report));
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

  close() {
    if (this.closed) return;
    this.closed = true;
    this.greeting.fail(loss("network"));
    window.clearInterval(this.ticker);
    window.clearTimeout(this.retry);
    this.monitor.close();
    this.speaker.pause();
    this.speaker.srcObject = null;
    for (const call of [...this.former, this.call]) {
      call?.hangUp();
      call?.close();
    }
  }
}
