/**
 * The running page without its looks: carries out what the state machine decides, and gathers what the views show.
 *
 * @import { Input } from "./session.js"
 * @import { SessionState } from "./session_state.js"
 * @import { Effect, TimerName } from "./session_steps.js"
 * @import { CaptureReport } from "./capture.js"
 * @import { Room } from "./audio_nodes.js"
 * @import { Latency } from "./latency.js"
 * @import { Preferences } from "./preferences.js"
 * @import { Language, Quality, ServerEvent, Transport, TransportListener } from "./types.js"
 *
 * @typedef {object} AppListener
 * @property {() => void} onChange something that is shown has changed
 * @property {(message: string) => void} onServerMessage
 * @property {(seconds: number) => void} onEndsSoon the server has announced the end of the conversation
 * @property {(error: DeviceError) => void} onDeviceError
 * @property {(device: "microphone" | "camera") => void} onDeviceGone
 * @property {() => void} onReconnected
 */

import { ConnectError, loss } from "./access.js";
import { Camera, STILL_EVERY_MS } from "./camera.js";
import { Captions } from "./captions.js";
import { DeviceError } from "./devices.js";
import { LatencyMeter } from "./latency.js";
import { LevelHistory, meterValue, SliceClock } from "./levels.js";
import { Microphone } from "./microphone.js";
import { EventLog } from "./probe.js";
import { step } from "./session.js";
import { initialState } from "./session_state.js";
import { TimelineModel } from "./timeline_model.js";
import { WebRtcTransport } from "./transport_webrtc.js";
import { WebSocketTransport } from "./transport_websocket.js";
import { cameraStill } from "./wire.js";
import { SLICE_MS } from "./worklet_names.js";

/** How often the connection's quality is looked at. */
const QUALITY_EVERY_MS = 1000;

/** A still is left out while this much waits to be sent. */
const STILL_BACKLOG_BYTES = 48 * 1024;

/** Room in a message for what surrounds a picture. */
const STILL_ENVELOPE_BYTES = 256;

export class App {
  /**
   * @param {Preferences} preferences
   * @param {Language} language
   * @param {string} apiKey
   * @param {HTMLVideoElement} preview
   * @param {AppListener} listener
   */
  constructor(preferences, language, apiKey, preview, listener) {
    this.preferences = preferences;
    this.apiKey = apiKey;
    this.listener = listener;
    /** @type {SessionState} */
    this.state = initialState(preferences.transport, preferences.policy, language);
    this.captions = new Captions();
    this.latency = new LatencyMeter();
    this.levels = { user: new LevelHistory(), model: new LevelHistory() };
    this.clocks = { user: new SliceClock(SLICE_MS), model: new SliceClock(SLICE_MS) };
    this.timeline = new TimelineModel();
    this.events = new EventLog();
    /** @type {Quality | null} */
    this.quality = null;
    /** @type {Transport | null} */
    this.transport = null;
    /** Goes up with every attempt to connect: what an older one still has to say is not heard. */
    this.attempt = 0;
    this.retryAtMs = 0;
    /** @type {Map<TimerName, number>} */
    this.timers = new Map();
    this.microphone = new Microphone({
      onReport: (report) => this.captured(report),
      onGone: () => this.deviceGone("microphone"),
    });
    this.camera = new Camera(preview, () => this.deviceGone("camera"));
    /** The camera goes as a video track; otherwise as stills. */
    this.cameraOnTrack = false;
    window.setInterval(() => this.sendStill(), STILL_EVERY_MS);
    window.setInterval(() => void this.readQuality(), QUALITY_EVERY_MS);
  }

  /** @param {Input} input */
  dispatch(input) {
    const { state, effects } = step(this.state, input);
    this.state = state;
    for (const effect of effects) this.carryOut(effect);
    if (state.phase === "idle" || state.phase === "failed") this.release();
    this.timeline.speech = state.userSpeaking;
    this.timeline.ducked = state.overlapping;
    this.listener.onChange();
  }

  /** @param {Effect} effect */
  carryOut(effect) {
    switch (effect.type) {
      case "open":
        void this.connect();
        break;
      case "close":
        this.disconnect();
        break;
      case "send":
        this.transport?.send(effect.event);
        break;
      case "flush":
        this.transport?.flush();
        break;
      case "duck":
        this.transport?.duck(effect.on);
        break;
      case "microphone":
        this.microphone.setOpen(effect.on);
        break;
      case "timer":
        this.setTimer(effect.name, effect.ms);
        break;
      case "cancel_timer":
        window.clearTimeout(this.timers.get(effect.name));
        break;
      case "mark":
        this.timeline.mark({ kind: "interrupted", atMs: performance.now() });
        break;
      case "note":
        this.listener.onReconnected();
        break;
      case "notice":
        this.listener.onServerMessage(effect.message);
        break;
      case "ends_soon":
        this.listener.onEndsSoon(effect.seconds);
        break;
    }
  }

  /**
   * @param {TimerName} name
   * @param {number} ms
   */
  setTimer(name, ms) {
    window.clearTimeout(this.timers.get(name));
    if (name === "retry") this.retryAtMs = performance.now() + ms;
    this.timers.set(name, window.setTimeout(() => this.dispatch({ type: "timer", name }), ms));
  }

  async connect() {
    this.attempt += 1;
    const attempt = this.attempt;
    try {
      await this.openMicrophone();
      const room = await this.microphone.prepare();
      if (attempt !== this.attempt) return this.releaseIfIdle();
      this.microphone.giveSamples(this.state.kind === "websocket");
      const transport = this.makeTransport(attempt, room);
      this.transport = transport;
      await transport.open();
      if (attempt !== this.attempt) return;
      await this.sendCamera();
      this.dispatch({ type: "opened" });
    } catch (error) {
      if (attempt !== this.attempt) return;
      this.dispatch({ type: "lost", loss: error instanceof ConnectError ? error.loss : loss("network", String(error)) });
    }
  }

  /** Open the microphone if it is not; without one the person can still type and listen. */
  async openMicrophone() {
    if (this.microphone.track) return;
    try {
      await this.microphone.start(this.preferences.microphone);
      this.listener.onChange();
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      this.listener.onDeviceError(error);
    }
  }

  /**
   * @param {number} attempt
   * @param {Room} room where the model's voice may be listened to
   * @returns {Transport}
   */
  makeTransport(attempt, room) {
    const common = { apiKey: this.apiKey, loudspeaker: this.preferences.loudspeaker };
    const listener = this.listenerOf(attempt);
    if (this.state.kind === "websocket") return new WebSocketTransport(listener, common);
    const cameraTrack = this.preferences.cameraMode === "track";
    return new WebRtcTransport(listener, { ...common, microphone: this.microphone.track, cameraTrack, room });
  }

  /**
   * @param {number} attempt
   * @returns {TransportListener}
   */
  listenerOf(attempt) {
    const current = () => attempt === this.attempt;
    return {
      onEvent: (event) => {
        if (current()) this.received(event);
      },
      onLoss: (why) => {
        if (current()) this.dispatch({ type: "lost", loss: why });
      },
      onStall: (on) => {
        if (current()) this.dispatch({ type: "stalled", on });
      },
      onPlayback: (what, responseId) => {
        if (current()) this.playback(what, responseId);
      },
      onPlayed: (itemId, playedMs) => {
        if (current()) this.captions.played(itemId, playedMs);
      },
      onModelLevels: (levels) => {
        if (current()) this.modelHeard(levels);
      },
    };
  }

  disconnect() {
    this.attempt += 1;
    this.transport?.close();
    this.transport = null;
    this.quality = null;
  }

  /** @param {ServerEvent} event */
  received(event) {
    this.events.add(performance.now(), event);
    this.captions.receive(event);
    this.dispatch({ type: "server", event });
  }

  /**
   * @param {"started" | "stopped" | "cleared"} what
   * @param {string} responseId
   */
  playback(what, responseId) {
    if (what === "started") this.measured(this.latency.answerBegins(performance.now()));
    const item = this.captions.itemOfResponse.get(responseId);
    if (what === "stopped" && item) this.captions.finished(item);
    this.dispatch({ type: "playback", state: what, responseId });
  }

  /** @param {readonly number[]} levels of the newest slices */
  modelHeard(levels) {
    const now = performance.now();
    levels.forEach((rms, index) => {
      const at = this.clocks.model.next(now - (levels.length - 1 - index) * SLICE_MS);
      this.levels.model.push(rms, at);
      this.timeline.push("model", meterValue(rms), at);
      this.measured(this.latency.model(rms, at));
    });
  }

  /** @param {CaptureReport} report */
  captured(report) {
    if (report.type === "chunk") {
      this.transport?.sendSamples(report.samples);
      return;
    }
    const now = performance.now();
    report.rms.forEach((rms, index) => {
      const at = this.clocks.user.next(now - (report.rms.length - 1 - index) * SLICE_MS);
      this.levels.user.push(rms, at);
      this.timeline.push("user", meterValue(rms), at);
      this.latency.user(rms, at, this.state.userSpeaking || this.state.talking);
    });
  }

  /** @param {Latency | null} latency */
  measured(latency) {
    if (!latency) return;
    if (!latency.typed) this.timeline.mark({ kind: "answer", fromMs: latency.endedAtMs, atMs: latency.heardAtMs });
    this.listener.onChange();
  }

  /** @param {string} text */
  say(text) {
    if (this.state.phase !== "live" || text.trim() === "") return;
    const itemId = `item_${crypto.randomUUID().replaceAll("-", "").slice(0, 20)}`;
    this.captions.type(itemId, text.trim());
    this.latency.typed(performance.now());
    this.dispatch({ type: "say", itemId, text });
  }

  /** @param {string} deviceId */
  async chooseMicrophone(deviceId) {
    this.preferences.microphone = deviceId;
    if (!this.microphone.track) return;
    try {
      const track = await this.microphone.start(deviceId);
      await this.transport?.setMicrophone(track);
    } catch (error) {
      if (!(error instanceof DeviceError)) throw error;
      this.listener.onDeviceError(error);
    }
  }

  /** @param {string} deviceId */
  async chooseLoudspeaker(deviceId) {
    this.preferences.loudspeaker = deviceId;
    // Browsers refuse loudspeakers that are gone, or that the person has not allowed.
    await this.transport?.setLoudspeaker(deviceId).catch(() => {
      this.listener.onDeviceError(new DeviceError("loudspeaker", "failed"));
    });
  }

  /** @param {boolean} on */
  async setCamera(on) {
    if (on) {
      try {
        await this.camera.start(this.preferences.camera);
      } catch (error) {
        if (!(error instanceof DeviceError)) throw error;
        this.listener.onDeviceError(error);
      }
    } else {
      this.camera.stop();
    }
    await this.sendCamera();
    this.listener.onChange();
  }

  /** Bring what is sent in line with the camera and the choice of how; a call made without video sends stills. */
  async sendCamera() {
    const track = this.preferences.cameraMode === "track" ? this.camera.track : null;
    const taken = (await this.transport?.setCameraTrack(track)) ?? false;
    this.cameraOnTrack = taken && track !== null;
  }

  sendStill() {
    const transport = this.transport;
    if (!transport || this.state.phase !== "live" || !this.camera.track || this.cameraOnTrack) return;
    if (transport.backlogBytes > STILL_BACKLOG_BYTES) return;
    const still = this.camera.still(transport.maxMessageBytes - STILL_ENVELOPE_BYTES);
    if (still) transport.send(cameraStill(still));
  }

  async readQuality() {
    const transport = this.transport;
    if (!transport || this.state.phase !== "live") return;
    const quality = await transport.quality();
    if (transport === this.transport) this.quality = quality;
    this.listener.onChange();
  }

  /** @param {"microphone" | "camera"} device */
  deviceGone(device) {
    if (device === "camera") void this.setCamera(false);
    else {
      this.microphone.release();
      void this.transport?.setMicrophone(null);
    }
    this.listener.onDeviceGone(device);
  }

  /** Let go of the devices, so that their lights go out. */
  release() {
    this.microphone.stop();
    if (this.camera.track && this.state.phase === "idle") this.camera.stop();
  }

  releaseIfIdle() {
    if (this.state.phase === "idle" || this.state.phase === "failed") this.release();
  }
}
