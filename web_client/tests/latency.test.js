import assert from "node:assert/strict";
import test from "node:test";

import { LatencyMeter } from "../latency.js";

/** Feeds slices of 20 ms by a script of spans. */
class Scene {
  constructor() {
    this.meter = new LatencyMeter();
    this.now = 0;
    this.confirmed = false;
  }

  /**
   * @param {number} ms
   * @param {{ user?: number, model?: number }} levels
   */
  run(ms, { user = 0, model = 0 }) {
    for (const end = this.now + ms; this.now < end; ) {
      this.now += 20;
      this.meter.user(user, this.now, this.confirmed);
      this.meter.model(model, this.now);
    }
  }

  /**
   * @param {number} ms how long the person speaks
   * @param {number} pause_ms until the answer is heard
   */
  ask(ms, pause_ms) {
    this.run(100, { user: 0.1 });
    this.confirmed = true;
    this.run(ms - 100, { user: 0.1 });
    this.run(pause_ms / 2, {});
    this.confirmed = false;
    this.meter.answerBegins(this.now);
    this.run(pause_ms / 2, {});
    this.run(500, { model: 0.1 });
  }
}

test("the time from the end of speech to the first sound of the answer", () => {
  const scene = new Scene();
  scene.run(1000, {});
  scene.ask(1000, 400);
  assert.equal(scene.meter.last?.latencyMs, 420);
});

test("an answer announced after its first sound is measured from the sound", () => {
  const scene = new Scene();
  scene.confirmed = true;
  scene.run(600, { user: 0.1 });
  scene.run(300, {});
  scene.run(100, { model: 0.1 });
  const latency = scene.meter.answerBegins(scene.now);
  assert.equal(latency?.latencyMs, 320);
});

test("noise that the server does not take for speech asks nothing", () => {
  const scene = new Scene();
  scene.run(600, { user: 0.1 });
  scene.run(300, {});
  scene.meter.answerBegins(scene.now);
  scene.run(200, { model: 0.1 });
  assert.equal(scene.meter.last, null);
});

test("speech that is confirmed only after its end counts to its real end", () => {
  const scene = new Scene();
  scene.run(300, { user: 0.1 });
  scene.run(200, {});
  scene.confirmed = true;
  scene.run(200, {});
  scene.meter.answerBegins(scene.now);
  scene.run(200, { model: 0.1 });
  assert.equal(scene.meter.last?.latencyMs, 420);
});

test("an interruption is measured to the new answer and not to the old voice", () => {
  const scene = new Scene();
  scene.run(1000, { model: 0.1 });
  scene.run(200, { model: 0.1, user: 0.1 });
  scene.confirmed = true;
  scene.run(200, { model: 0.1, user: 0.1 });
  scene.run(200, { user: 0.1 });
  scene.run(300, {});
  scene.meter.answerBegins(scene.now);
  scene.run(200, { model: 0.1 });
  assert.equal(scene.meter.last?.latencyMs, 320);
});

test("a click is no question", () => {
  const scene = new Scene();
  scene.confirmed = true;
  scene.run(60, { user: 0.3 });
  scene.run(300, {});
  scene.meter.answerBegins(scene.now);
  scene.run(200, { model: 0.1 });
  assert.equal(scene.meter.last, null);
});

test("a typed message counts from when it was sent", () => {
  const scene = new Scene();
  scene.run(500, {});
  scene.meter.typed(scene.now);
  scene.run(200, {});
  scene.meter.answerBegins(scene.now);
  scene.run(200, { model: 0.1 });
  assert.deepEqual([scene.meter.last?.latencyMs, scene.meter.last?.typed], [220, true]);
});

test("steady noise raises the threshold above itself", () => {
  const scene = new Scene();
  scene.run(10_000, { user: 0.02 });
  scene.confirmed = true;
  scene.run(1000, { user: 0.02 });
  assert.equal(scene.meter.waiting, null);
  scene.run(400, { user: 0.2 });
  assert.ok(scene.meter.waiting);
});

test("one question is answered once", () => {
  const scene = new Scene();
  scene.ask(1000, 400);
  scene.run(2000, {});
  scene.meter.answerBegins(scene.now);
  scene.run(500, { model: 0.1 });
  assert.equal(scene.meter.measured.length, 1);
});

test("an answer after a long time belongs to something else", () => {
  const scene = new Scene();
  scene.ask(1000, 20_000);
  assert.equal(scene.meter.last, null);
});
