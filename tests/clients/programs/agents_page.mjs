// A page as people write it with @openai/agents-realtime over WebRTC: `talk(...)` holds a whole conversation, and fails
// when something is not as the package promises. `window.wire` is what came over the data channels, one list for each.
import { OpenAIRealtimeWebRTC, RealtimeAgent, RealtimeSession } from "/bundle/openai-realtime-agents.mjs";

const LONGEST_WAIT_MS = 20_000;
const AUDIBLE_RMS = 0.01;
const CLIP_HZ = 24_000;

function check(holds, what) {
  if (!holds) throw new Error(what);
}

const sleep = (ms) => new Promise((go) => setTimeout(go, ms));

/** A microphone that hears what it is told to. */
class Microphone {
  constructor(context) {
    this.context = context;
    this.out = context.createMediaStreamDestination();
  }

  async say(name) {
    const pcm = new Int16Array(await (await fetch(`/clips/${name}.pcm`)).arrayBuffer());
    const buffer = this.context.createBuffer(1, pcm.length, CLIP_HZ);
    buffer.copyToChannel(Float32Array.from(pcm, (sample) => sample / 32768), 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.out);
    source.start();
  }
}

/** A session, and what it reported. */
class Talk {
  constructor(url) {
    this.told = [];
    this.errors = [];
    this.context = new AudioContext();
    this.microphone = new Microphone(this.context);
    this.audio = document.createElement("audio");
    const transport = new OpenAIRealtimeWebRTC({
      baseUrl: url,
      audioElement: this.audio,
      mediaStream: this.microphone.out.stream,
      changePeerConnection: (connection) => this.watch(connection),
    });
    this.session = new RealtimeSession(new RealtimeAgent({ name: "guide", instructions: "Be brief." }), {
      transport,
      model: "gpt-realtime",
    });
    const names = ["agent_start", "agent_end"];
    for (const name of names) this.session.on(name, (...details) => this.told.push([name, ...details]));
    this.session.on("transport_event", (event) => this.told.push([event.type, event]));
    this.session.on("error", ({ error }) => this.errors.push(error));
    transport.on("connection_change", (status) => this.told.push([status]));
  }

  /** Measure what the page plays. */
  watch(connection) {
    this.connection = connection;
    this.meter = this.context.createAnalyser();
    connection.addEventListener("track", ({ streams }) => {
      this.context.createMediaStreamSource(streams[0]).connect(this.meter);
    });
    return connection;
  }

  audible() {
    const samples = new Float32Array(this.meter.fftSize);
    this.meter.getFloatTimeDomainData(samples);
    return Math.sqrt(samples.reduce((sum, sample) => sum + sample * sample, 0) / samples.length) > AUDIBLE_RMS;
  }

  async until(what, holds) {
    const deadline = performance.now() + LONGEST_WAIT_MS;
    while (!holds()) {
      check(performance.now() < deadline, `${what} never came: ${this.told.map(([name]) => name).slice(-60)}`);
      await sleep(10);
    }
  }

  async next(name) {
    const find = () => this.told.findIndex(([kind]) => kind === name);
    await this.until(name, () => find() >= 0);
    return this.told.splice(0, find() + 1).at(-1).slice(1);
  }

  async answer(pattern) {
    const [, , output] = await this.next("agent_end");
    check(pattern.test(output), `it said ${output}, not ${pattern}`);
  }

  async provoke(event, code) {
    const before = this.errors.length;
    this.session.transport.sendEvent(event);
    await this.until("error", () => this.errors.length > before);
    const [{ error }] = this.errors.splice(before);
    check(error.code === code, `${error.code} is not ${code}`);
  }

  async connect(apiKey) {
    await this.session.connect({ apiKey });
    await this.next("session.updated"); // without it connect() gives up after 5 s, and does not say so
    check(/^rtc_/.test(this.session.transport.callId), `the call's id is ${this.session.transport.callId}`);
  }
}

async function speak(talk) {
  await talk.microphone.say("question");
  await talk.next("input_audio_buffer.speech_started");
  await talk.next("output_audio_buffer.started");
  await talk.until("sound", () => talk.audible());
  await talk.answer(/^It is/);
  await talk.next("output_audio_buffer.stopped");

  await talk.microphone.say("story");
  await talk.next("output_audio_buffer.started");
  await talk.until("sound", () => talk.audible());
  await sleep(2000);
  await talk.microphone.say("stop");
  await talk.next("input_audio_buffer.speech_started");
  await talk.next("output_audio_buffer.cleared");
  await talk.next("conversation.item.truncated"); // by the server, which knows what left the track
  const [{ response }] = await talk.next("response.done");
  check(response.status_details.reason === "turn_detected", `the story ended ${response.status}`);
  await sleep(700); // what is on its way, and the browser's jitter buffer
  check(!talk.audible(), "it is silent after the interruption");
}

async function typeAndShow(talk, picture) {
  talk.session.sendMessage("tell me a story");
  await talk.next("output_audio_buffer.started");
  await talk.until("sound", () => talk.audible());
  talk.session.interrupt();
  const [{ response }] = await talk.next("response.done");
  check(response.status_details.reason === "client_cancelled", `the story ended ${response.status}`);
  await talk.session.updateAgent(new RealtimeAgent({ name: "other", instructions: "Be kind." }));
  await talk.next("session.updated");

  talk.session.addImage(picture, { triggerResponse: false });
  await talk.next("conversation.item.done");
  talk.session.sendMessage("what do you see");
  await talk.answer(/dark/);
  check(talk.errors.length === 0, JSON.stringify(talk.errors));

  await talk.provoke({ type: "conversation.item.delete", item_id: "item_x" }, "item_delete_invalid_item_id");
  await talk.provoke({ type: "sing" }, "invalid_value");
}

/** Hold a conversation with the server at `url`, twice, with another secret each time. */
export async function talk(url, secrets, picture) {
  const first = new Talk(url);
  await first.connect(secrets[0]);
  await speak(first);
  await typeAndShow(first, picture);
  first.connection.close();
  first.connection.onconnectionstatechange(); // a closed connection does not tell its owner
  await first.next("disconnected");
  await first.connect(secrets[1]);
  first.session.sendMessage("what is two plus three");
  await first.answer(/5/);
  first.session.close();
}
