import assert from "node:assert/strict";
import test, { mock } from "node:test";

import { CONNECT_TIMEOUT_MS, loss } from "../access.js";
import { Greeting } from "../greeting.js";

/** @import { LossReason, ServerEvent } from "../types.js" */

/** @type {ServerEvent} */
const CREATED = { type: "session.created", session: { id: "s", model: "", examples: [], transcribes: false, languages: [] } };
/** @type {ServerEvent} */
const QUEUED = { type: "session.queued", position: 2, estimated_wait_s: 30 };

/**
 * @param {(greeting: Greeting) => void} play
 * @returns {Promise<LossReason | "begun" | "waiting">} what came of it
 */
async function outcome(play) {
  mock.timers.enable({ apis: ["setTimeout"] });
  try {
    const greeting = new Greeting(loss("media_path"));
    play(greeting);
    const begun = greeting.done.then(() => /** @type {const} */ ("begun"), (error) => error.loss.reason);
    const waiting = /** @type {const} */ ("waiting");
    return await Promise.race([begun, new Promise((resolve) => setImmediate(() => resolve(waiting)))]);
  } finally {
    mock.timers.reset();
  }
}

test("a server that greets is heard", async () => {
  assert.equal(await outcome((greeting) => greeting.received(CREATED)), "begun");
});

test("silence means what the transport says it means, once its time is over", async () => {
  assert.equal(await outcome(() => mock.timers.tick(CONNECT_TIMEOUT_MS - 1)), "waiting");
  assert.equal(await outcome(() => mock.timers.tick(CONNECT_TIMEOUT_MS)), "media_path");
});

test("waiting in the line may take as long as it takes", async () => {
  const waited = await outcome((greeting) => {
    for (let n = 0; n < 100; n++) {
      greeting.received(QUEUED);
      mock.timers.tick(10_000);
    }
  });
  assert.equal(waited, "waiting");
});

test("a line that falls silent is a lost connection", async () => {
  const lost = await outcome((greeting) => {
    greeting.received(QUEUED);
    mock.timers.tick(30_000);
  });
  assert.equal(lost, "network");
});

test("who has come to the place is greeted soon or not at all", async () => {
  const late = await outcome((greeting) => {
    greeting.received(QUEUED);
    greeting.received({ type: "session.queue_done" });
    mock.timers.tick(CONNECT_TIMEOUT_MS);
  });
  assert.equal(late, "network");
});

test("the first end is the one that counts", async () => {
  const refused = await outcome((greeting) => {
    greeting.fail(loss("full"));
    greeting.received(CREATED);
    mock.timers.tick(CONNECT_TIMEOUT_MS);
  });
  assert.equal(refused, "full");
});
