/**
 * One WebRTC call: a peer connection with its tracks and its data channel, whose network path is mended while that is
 * possible. Knows nothing about what events mean, or about the call after it.
 */

import { authorization, ConnectError, request } from "./access.js";

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

/** The model looks about once a second; more pictures would be thrown away. */
const CAMERA_FRAMES_PER_S = 2;
const CAMERA_BITRATE = 250_000;

/** Length of the browser's jitter buffer that is asked for; it grows by itself where the network needs it. */
const JITTER_TARGET_MS = 20;

/**
 * @typedef {object} CallListener
 * @property {(message: string) => void} onMessage
 * @property {(stream: MediaStream) => void} onSound the model's voice
 * @property {(on: boolean) => void} onStall nothing gets through, and another network path is looked for; or it is found
 * @property {() => void} onGone the call is over, or past mending; told once
 */

export class RtcCall {
  /**
   * @param {CallListener} listener
   * @param {{ apiKey: string, servers: RTCIceServer[], microphone: MediaStreamTrack | null, video: boolean,
   *   camera: MediaStreamTrack | null }} options `video`: whether a camera's track may be sent, now or later
   */
  constructor(listener, options) {
    this.listener = listener;
    this.apiKey = options.apiKey;
    /** Where the server has the call; "" while it has none. */
    this.path = "";
    this.peer = new RTCPeerConnection({ iceServers: options.servers });
    this.channel = this.peer.createDataChannel("oai-events", { ordered: true });
    // Both directions even without a microphone, so that one can be plugged in later.
    this.audio = this.peer.addTransceiver(options.microphone ?? "audio", {
      direction: "sendrecv",
      streams: [new MediaStream()],
    });
    if (this.audio.receiver.jitterBufferTarget !== undefined) this.audio.receiver.jitterBufferTarget = JITTER_TARGET_MS;
    this.camera = options.video ? this.addCamera(options.camera) : null;
    this.stood = false;
    this.stalledAtMs = 0;
    this.healTimer = 0;
    this.closed = false;
    this.channel.onmessage = (message) => {
      if (!this.closed && typeof message.data === "string") this.listener.onMessage(message.data);
    };
    this.channel.onclose = () => {
      this.path = ""; // the server has ended it
      this.gone();
    };
    this.peer.ontrack = (event) => {
      if (event.track.kind === "audio") this.listener.onSound(event.streams[0] ?? new MediaStream([event.track]));
    };
    this.peer.onconnectionstatechange = () => this.changed(this.peer.connectionState);
  }

  /** @param {MediaStreamTrack | null} track */
  addCamera(track) {
    return this.peer.addTransceiver(track ?? "video", {
      direction: "sendonly",
      sendEncodings: [{ maxFramerate: CAMERA_FRAMES_PER_S, maxBitrate: CAMERA_BITRATE }],
    });
  }

  /**
   * Make the call.
   *
   * @param {string} query of the URL
   * @param {object | null} session what the server is asked for along with the call
   * @param {AbortSignal} signal
   * @returns {Promise<void>} when the server has answered; the data channel opens later
   * @throws {ConnectError}
   */
  async dial(query, session, signal) {
    await this.describe();
    await gathered(this.peer);
    const sdp = await this.post(`${CALLS}${query}`, session, signal);
    if (this.closed) this.hangUp();
    else await this.peer.setRemoteDescription({ type: "answer", sdp });
  }

  /** Make an offer, and begin to look for ways to the server. */
  async describe() {
    const offer = await this.peer.createOffer();
    const repaired = { type: offer.type, sdp: withRepair(offer.sdp ?? "") };
    await this.peer.setLocalDescription(repaired).catch(() => this.peer.setLocalDescription(offer));
  }

  /**
   * @param {string} path where calls are made, or the call that this is about
   * @param {object | null} session
   * @param {AbortSignal} signal
   * @returns {Promise<string>} the answer
   * @throws {ConnectError}
   */
  async post(path, session, signal) {
    const sdp = this.peer.localDescription?.sdp ?? "";
    /** @type {FormData | string} */
    let body = sdp;
    /** @type {Record<string, string>} */
    const headers = authorization(this.apiKey);
    if (session) {
      body = new FormData();
      body.set("sdp", sdp);
      body.set("session", JSON.stringify(session));
    } else {
      headers["Content-Type"] = "application/sdp";
    }
    const response = await request(path, { method: "POST", headers, body, signal });
    this.path = response.headers.get("Location") ?? this.path;
    return response.text();
  }

  /** @param {RTCPeerConnectionState} state */
  changed(state) {
    clearTimeout(this.healTimer);
    if (this.closed) return;
    if (state === "connected") {
      this.stood = true;
      if (this.stalledAtMs > 0) this.listener.onStall(false);
      this.stalledAtMs = 0;
    } else if (state === "failed" && !this.stood) {
      this.gone();
    } else if (state === "disconnected" || state === "failed") {
      if (this.stalledAtMs === 0) {
        this.stalledAtMs = performance.now();
        this.listener.onStall(true);
      }
      this.healTimer = window.setTimeout(() => void this.heal(), state === "failed" ? 0 : HEAL_AFTER_MS);
    }
  }

  /** Look for another network path for the same call: the person may have changed from Wi-Fi to mobile. */
  async heal() {
    if (this.closed || this.stalledAtMs === 0) return;
    if (performance.now() - this.stalledAtMs > HEAL_LIMIT_MS || !(await this.restart())) this.gone();
    else if (!this.closed) this.healTimer = window.setTimeout(() => void this.heal(), HEAL_EVERY_MS);
  }

  /** @returns {Promise<boolean>} whether it is worth trying again, if the path does not come to stand */
  async restart() {
    try {
      this.peer.restartIce();
      await this.describe();
      await gathered(this.peer);
      const sdp = await this.post(this.path, null, AbortSignal.timeout(HEAL_LIMIT_MS));
      await this.peer.setRemoteDescription({ type: "answer", sdp });
    } catch (error) {
      if (error instanceof ConnectError && error.loss.reason !== "network") {
        this.path = ""; // the server does not know it any more
        return false;
      }
      await this.peer.setLocalDescription({ type: "rollback" }).catch(() => {});
    }
    return true;
  }

  gone() {
    if (this.closed) return;
    clearTimeout(this.healTimer);
    this.closed = true;
    this.listener.onGone();
  }

  /** @returns {number | null} RTP timestamp of the sound that is being played */
  get playing() {
    return this.audio.receiver.getSynchronizationSources?.()[0]?.rtpTimestamp ?? null;
  }

  hangUp() {
    if (!this.path) return;
    // `keepalive` lets the request outlive the page, so that the place on the server is free at once.
    void fetch(`${this.path}/hangup`, { method: "POST", keepalive: true, headers: authorization(this.apiKey) }).catch(
      () => {},
    );
    this.path = "";
  }

  /** Let go of the connection; to the server that is a goodbye, unless another call has taken this one's place. */
  close() {
    clearTimeout(this.healTimer);
    this.closed = true;
    this.channel.close();
    this.peer.close();
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

/**
 * Offer to send lost packets of sound again: browsers can, and do it for pictures only unless they are told.
 *
 * @param {string} sdp
 * @returns {string}
 */
function withRepair(sdp) {
  return sdp.replace(/^(a=rtpmap:(\d+) opus\/48000.*\r\n)/m, "$1a=rtcp-fb:$2 nack\r\n");
}
