import assert from "node:assert/strict";
import test, { mock } from "node:test";

import { WebRtcTransport } from "../transport_webrtc.js";

/** @import { ClientEvent, ServerEvent } from "../types.js" */

/** Everything that the page has asked of its browser and its server. */
class World {
  constructor() {
    /** @type {FakePeer[]} */
    this.peers = [];
    /** @type {{ url: string, body: any }[]} */
    this.requests = [];
    /** @type {(url: string) => Response} */
    this.answer = () => new Response("answer", { status: 201, headers: { Location: "/v1/realtime/calls/rtc_1" } });
    /** @type {string[]} */
    this.told = [];
    /** @type {ServerEvent[]} */
    this.events = [];
  }

  get peer() {
    const newest = this.peers.at(-1);
    assert.ok(newest);
    return newest;
  }

  /** @param {Record<string, unknown>} event as the server sends it over the newest call */
  say(event) {
    this.peer.channel.onmessage({ data: JSON.stringify(event) });
  }

  greet() {
    this.say({ type: "session.created", session: { id: "sess_1" }, server_event_seq: 1, resume_token: "t1" });
  }

  /** @returns {string[]} types of what was sent over the newest call */
  get sent() {
    return this.peer.channel.sent.map((message) => JSON.parse(message).type);
  }

  /** @returns {WebRtcTransport} */
  transport() {
    /** @param {string} word */
    const tell = (word) => { this.told.push(word); };
    return new WebRtcTransport(
      {
        onEvent: (event) => { this.events.push(event); },
        onLoss: (why) => tell(`lost: ${why.reason}`),
        onStall: (on) => tell(on ? "stalled" : "goes on"),
        onPlayback: () => {},
        onPlayed: () => {},
        onModelLevels: () => {},
      },
      { apiKey: "", microphone: null, loudspeaker: "", cameraTrack: false, room: /** @type {any} */ ({}) },
    );
  }
}

class FakeChannel {
  constructor() {
    /** @type {string[]} */
    this.sent = [];
    this.readyState = "open";
    this.closed = false;
    /** @type {(message: { data: string }) => void} */
    this.onmessage = () => {};
    this.onclose = () => {};
  }

  /** @param {string} message */
  send(message) {
    this.sent.push(message);
  }

  close() {
    this.closed = true;
  }
}

/** @type {World} */
let world;

class FakePeer {
  constructor() {
    this.channel = new FakeChannel();
    this.connectionState = "new";
    this.iceGatheringState = "complete";
    this.localDescription = { sdp: `offer ${world.peers.length}` };
    this.rtpTimestamp = 0;
    this.onconnectionstatechange = () => {};
    world.peers.push(this);
  }

  createDataChannel() {
    return this.channel;
  }

  addTransceiver() {
    const sources = () => (this.rtpTimestamp ? [{ rtpTimestamp: this.rtpTimestamp }] : []);
    return { receiver: { getSynchronizationSources: sources }, sender: {} };
  }

  async createOffer() {
    return { type: "offer", sdp: "" };
  }
  async setLocalDescription() {}
  async setRemoteDescription() {}
  restartIce() {}
  close() {
    this.connectionState = "closed";
  }

  /** @param {string} state */
  become(state) {
    this.connectionState = state;
    this.onconnectionstatechange();
  }
}

/** Let everything happen that waits for nothing. */
async function settle() {
  for (let n = 0; n < 20; n++) await Promise.resolve();
  await new Promise((resolve) => setImmediate(resolve));
}

/** @param {number} ms */
async function pass(ms) {
  for (let passed = 0; passed < ms; passed += 100) {
    mock.timers.tick(100);
    await settle();
  }
}

/** @param {() => Promise<void>} play */
async function inBrowser(play) {
  world = new World();
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: 1000 });
  const sound = { play: async () => {}, pause: () => {} };
  const port = { close: () => {} };
  const globals = {
    window: globalThis,
    Audio: function () { return sound; },
    AudioWorkletNode: function () { return { port }; },
    MediaStream: function () {},
    RTCPeerConnection: FakePeer,
    fetch: async (/** @type {string} */ url, /** @type {RequestInit} */ init) => {
      if (url === "/v1/ice_servers") return Response.json({ ice_servers: [] });
      world.requests.push({ url, body: init.body });
      return world.answer(url);
    },
  };
  const before = Object.fromEntries(Object.keys(globals).map((name) => [name, Object.getOwnPropertyDescriptor(globalThis, name)]));
  for (const [name, value] of Object.entries(globals)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
  const clock = mock.method(performance, "now", () => Date.now());
  try {
    await play();
  } finally {
    clock.mock.restore();
    mock.timers.reset();
    for (const [name, descriptor] of Object.entries(before)) {
      if (descriptor) Object.defineProperty(globalThis, name, descriptor);
      else Reflect.deleteProperty(globalThis, name);
    }
  }
}

/** @returns {Promise<WebRtcTransport>} in a conversation */
async function talking() {
  const transport = world.transport();
  const opening = transport.open();
  await settle();
  world.peer.become("connected");
  world.greet();
  await opening;
  return transport;
}

/** @param {Record<string, unknown>} [more] */
function resumed(more = {}) {
  world.say({ type: "session.resumed", session: { id: "sess_1" }, resume_token: "t2", client_events_received: 0, ...more });
}

/** @type {ClientEvent} */
const HELLO = { type: "session.update" };
/** @type {ClientEvent} */
const PICTURE = { type: "input_image_buffer.append" };

test("a place in the line is asked for, and waited for", () => inBrowser(async () => {
  const transport = world.transport();
  const opening = transport.open();
  await settle();
  assert.equal(world.requests[0]?.url, "/v1/realtime/calls?resume=1&queue=1");
  world.peer.become("connected");
  for (let n = 0; n < 6; n++) {
    world.say({ type: "session.queue_update", position: 1, estimated_wait_s: 9 });
    await pass(10_000);
  }
  world.say({ type: "session.queue_done" });
  world.greet();
  await opening;
  assert.deepEqual(world.told, []);
  transport.close();
}));

test("a call that never connects has no path for media; one that breaks in the line is a lost network", () => inBrowser(async () => {
  for (const queued of [false, true]) {
    const opening = world.transport().open();
    await settle();
    if (queued) world.say({ type: "session.queued", position: 1, estimated_wait_s: 9 });
    world.peer.become("failed");
    await assert.rejects(opening, { loss: { reason: queued ? "network" : "media_path", detail: "", retry_after_s: 0 } });
  }
}));

test("a call past mending is followed by another one, in the same conversation", () => inBrowser(async () => {
  const transport = await talking();
  const first = world.peer;
  world.answer = () => { throw new TypeError("offline"); };
  first.rtpTimestamp = 9600;
  await pass(100);
  first.rtpTimestamp = 9600 + 48_000;
  await pass(100);
  world.say({ type: "response.created", response: { id: "r" }, server_event_seq: 7 });
  transport.send(HELLO);
  first.become("disconnected");
  await pass(12_000);
  transport.send(PICTURE);
  world.answer = () => new Response("answer", { status: 201, headers: { Location: "/v1/realtime/calls/rtc_2" } });
  await pass(2000);
  assert.notEqual(world.peer, first);
  const asked = JSON.parse(world.requests.at(-1)?.body.get("session"));
  assert.deepEqual(asked, {
    resume: { session_id: "sess_1", resume_token: "t1", last_received_server_event_seq: 7, audio_received_ms: 1020 },
  });
  assert.ok(!first.channel.closed, "to the server that would be a goodbye");
  world.peer.become("connected");
  resumed({ client_events_received: 1 });
  assert.deepEqual(world.sent, ["input_image_buffer.append"], "what had arrived is not sent again");
  assert.equal(first.connectionState, "closed");
  assert.deepEqual(world.told, ["stalled", "stalled", "goes on"]);
  transport.send(HELLO);
  assert.deepEqual(world.sent, ["input_image_buffer.append", "session.update"]);
  transport.close();
}));

test("what the old call still says is not heard once another one is asked for", () => inBrowser(async () => {
  const transport = await talking();
  const [first] = world.peers;
  first?.channel.onclose();
  await pass(1000);
  const n_events = world.events.length;
  first?.channel.onmessage({ data: JSON.stringify({ type: "response.created", response: { id: "late" }, server_event_seq: 2 }) });
  assert.equal(world.events.length, n_events, "the server sends it again over the new call");
  resumed();
  world.say({ type: "response.created", response: { id: "late" }, server_event_seq: 2 });
  assert.equal(world.events.length, n_events + 1);
  transport.close();
}));

test("a conversation that the server has no more is lost at once", () => inBrowser(async () => {
  await talking();
  world.answer = () => Response.json({ error: { message: "gone" } }, { status: 410 });
  world.peer.channel.onclose();
  await pass(1000);
  assert.deepEqual(world.told, ["stalled", "lost: network"]);
  const n_requests = world.requests.length;
  await pass(5000);
  assert.equal(world.requests.length, n_requests);
}));

test("a server that said the conversation is over is not asked for it again", () => inBrowser(async () => {
  await talking();
  const n_requests = world.requests.length;
  world.say({ type: "session.closed", reason: "timeout" });
  world.peer.channel.onclose();
  await pass(2000);
  assert.deepEqual(world.told, ["lost: network"]);
  assert.equal(world.requests.length, n_requests);
}));

test("coming back is given up after as long as the server waits", () => inBrowser(async () => {
  await talking();
  world.answer = () => { throw new TypeError("offline"); };
  world.peer.channel.onclose();
  await pass(29_000);
  assert.deepEqual(world.told, ["stalled"]);
  await pass(3000);
  assert.deepEqual(world.told, ["stalled", "lost: network"]);
}));

test("an attempt that comes to nothing is followed by the next, with a call of its own", () => inBrowser(async () => {
  const transport = await talking();
  world.peer.channel.onclose();
  await pass(1000);
  assert.equal(world.peers.length, 2);
  world.peer.become("failed");
  await pass(1000);
  assert.equal(world.peers.length, 3);
  await pass(11_000);
  assert.equal(world.peers.length, 4, "this one was not answered in time");
  resumed();
  assert.deepEqual(world.told, ["stalled", "goes on"]);
  assert.deepEqual(world.peers.map((peer) => peer.connectionState === "closed"), [true, true, true, false]);
  await pass(20_000);
  assert.equal(world.peers.length, 4);
  transport.close();
}));
