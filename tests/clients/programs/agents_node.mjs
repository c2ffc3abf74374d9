// A program as people write it with @openai/agents-realtime, over a WebSocket in Node.
//
// `node agents_node.mjs URL KEY FOLDER`: FOLDER holds what is said, int16 at 24 kHz, and a picture. It prints `cut WORD`
// to lose the connection over which it said WORD, and fails when something is not as the package promises.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { OpenAIRealtimeWebSocket, RealtimeAgent, RealtimeSession } from "@openai/agents-realtime";

const [url, apiKey, folder] = process.argv.slice(2);
const CHUNK_MS = 40;
const BYTES_PER_MS = 48;
const LONGEST_WAIT_MS = 20_000;

/** A session, its microphone, and what it reported. */
class Talk {
  constructor() {
    this.told = [];
    this.errors = [];
    this.audioBytes = 0;
    this.waiting = Buffer.alloc(0);
    this.session = new RealtimeSession(new RealtimeAgent({ name: "guide", instructions: "Be brief." }), {
      transport: new OpenAIRealtimeWebSocket({ url }),
      model: "gpt-realtime",
    });
    const names = ["agent_start", "agent_end", "audio_start", "audio_stopped", "audio_interrupted", "history_updated"];
    for (const name of names) this.session.on(name, (...details) => this.told.push([name, ...details]));
    this.session.on("transport_event", (event) => this.told.push([event.type, event]));
    this.session.on("audio", ({ data }) => {
      this.audioBytes += data.byteLength;
    });
    this.session.on("error", ({ error }) => this.errors.push(error));
    this.session.transport.on("connection_change", (status) => this.told.push([status]));
  }

  say(name) {
    this.waiting = Buffer.concat([this.waiting, readFileSync(`${folder}/${name}.pcm`)]);
  }

  async openMicrophone() {
    const start = performance.now();
    for (let n = 1; this.session.transport.status === "connected"; n += 1) {
      const chunk = Buffer.alloc(CHUNK_MS * BYTES_PER_MS);
      this.waiting.copy(chunk);
      this.waiting = this.waiting.subarray(chunk.length);
      this.session.sendAudio(chunk.buffer.slice(chunk.byteOffset, chunk.byteOffset + chunk.length));
      await sleep(Math.max(0, start + n * CHUNK_MS - performance.now()));
    }
  }

  async until(what, holds) {
    const deadline = performance.now() + LONGEST_WAIT_MS;
    while (!holds()) {
      assert(performance.now() < deadline, `${what} never came: ${this.told.map(([name]) => name).slice(-60)}`);
      await sleep(10);
    }
  }

  /** Take what was reported from the oldest event of a name on, and return that event's details. */
  async next(name) {
    const find = () => this.told.findIndex(([kind]) => kind === name);
    await this.until(name, () => find() >= 0);
    return this.told.splice(0, find() + 1).at(-1).slice(1);
  }

  async heard(durationMs) {
    const from = this.audioBytes;
    await this.until("audio", () => this.audioBytes - from >= durationMs * BYTES_PER_MS);
  }

  async answer() {
    const [, , output] = await this.next("agent_end");
    return output;
  }

  /** Say something that the server must complain about, and nothing else. */
  async provoke(event, code) {
    const before = this.errors.length;
    this.session.transport.sendEvent(event);
    await this.until("error", () => this.errors.length > before);
    const [{ error }] = this.errors.splice(before);
    assert.equal(error.code, code);
  }
}

async function speak() {
  const talk = new Talk();
  await talk.session.connect({ apiKey });
  const microphone = talk.openMicrophone();
  talk.say("question");
  await talk.next("audio_start");
  assert.match(await talk.answer(), /^It is/);
  assert.deepEqual(talk.session.history.map((item) => item.role), ["user", "assistant"]);
  assert.match(talk.session.history[1].content[0].transcript, /^It is/);

  talk.say("story");
  await talk.next("agent_start");
  await talk.heard(2000);
  talk.say("stop");
  await talk.next("audio_interrupted");
  await talk.next("conversation.item.truncated");
  await talk.next("input_audio_buffer.committed");

  await talk.session.updateAgent(new RealtimeAgent({ name: "other", instructions: "Be kind." }));
  const [{ session }] = await talk.next("session.updated");
  assert.equal(session.instructions, "Be kind.");
  talk.say("question");
  assert.match(await talk.answer(), /^It is/);
  assert.deepEqual(talk.errors, []);
  talk.session.close();
  await microphone;
}

async function typeAndShow() {
  const talk = new Talk();
  await talk.session.connect({ apiKey });
  talk.session.sendMessage("tell me a story");
  await talk.heard(500);
  talk.session.interrupt();
  await talk.next("audio_interrupted");
  const [{ response }] = await talk.next("response.done");
  assert.equal(response.status, "cancelled");

  const picture = readFileSync(`${folder}/black.jpg`).toString("base64");
  talk.session.addImage(`data:image/jpeg;base64,${picture}`, { triggerResponse: false });
  await talk.next("conversation.item.done");
  talk.session.sendMessage("what do you see");
  assert.match(await talk.answer(), /dark/);
  assert.deepEqual(talk.errors, []);

  await talk.provoke({ type: "conversation.item.delete", item_id: "item_x" }, "item_delete_invalid_item_id");
  await talk.provoke({ type: "input_audio_buffer.append", audio: "no base64!" }, "invalid_value");
  await talk.provoke({ type: "sing" }, "invalid_value");
  talk.session.sendMessage("what is two plus three");
  assert.match(await talk.answer(), /5/);

  console.log("cut item_x");
  await talk.next("disconnected");
  await talk.session.connect({ apiKey });
  talk.session.sendMessage("what is three plus four");
  assert.match(await talk.answer(), /7/);
  talk.session.close();
}

await Promise.all([speak(), typeAndShow()]);
