/**
 * Waiting for a server's first words: they come soon, or there is a line, in which waiting may take long.
 *
 * Knows nothing about the kind of connection.
 *
 * @import { Loss, ServerEvent } from "./types.js"
 */

import { CONNECT_TIMEOUT_MS, ConnectError, loss } from "./access.js";

/** A server lets nobody in its line wait without a word for more than 10 s; one that is silent for this long is gone. */
const LINE_SILENCE_MS = 30_000;

export class Greeting {
  /** @param {Loss} late what it means that nothing at all comes */
  constructor(late) {
    this.late = late;
    /** Whether the server has said anything. */
    this.begun = false;
    this.over = false;
    /** @type {ReturnType<typeof setTimeout> | undefined} */
    this.timer = undefined;
    /** @type {() => void} */
    this.resolve = () => {};
    /** @type {(error: ConnectError) => void} */
    this.reject = () => {};
    /** Resolves when the conversation begins. @type {Promise<void>} */
    this.done = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.done.catch(() => {}); // what is done before anybody waits here may fail first
    this.wait(CONNECT_TIMEOUT_MS);
  }

  /** @param {ServerEvent} event */
  received(event) {
    if (this.over) return;
    this.begun = true;
    if (event.type === "session.queued") this.wait(LINE_SILENCE_MS);
    else if (event.type === "session.queue_done") this.wait(CONNECT_TIMEOUT_MS);
    else if (event.type === "session.created") {
      this.end();
      this.resolve();
    }
  }

  /** @param {Loss} why */
  fail(why) {
    if (this.over) return;
    this.end();
    this.reject(new ConnectError(why));
  }

  /** @param {number} ms */
  wait(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.fail(this.begun ? loss("network") : this.late), ms);
  }

  end() {
    this.over = true;
    clearTimeout(this.timer);
  }
}
