/**
 * What a page needs to go on with a conversation whose connection broke: the newest token, what has arrived, what was
 * sent. Pure: knows no sockets.
 */

/** Messages kept until the server has them: some 30 s of a microphone's. Beyond it the oldest are lost. */
const KEPT = 1500;

export class Resumption {
  constructor() {
    this.sessionId = "";
    this.token = "";
    this.lastSeq = 0;
    /** @type {string[]} */
    this.kept = [];
    this.nSent = 0;
  }

  /** Whether the server has said how to come back. */
  get possible() {
    return this.token !== "";
  }

  /**
   * Take note of a message from the server.
   *
   * @param {string} message
   * @returns {{ type: string, nArrived: number }} its type; of `session.resumed`, how many messages had arrived there
   */
  received(message) {
    /** @type {Record<string, any>} */
    const event = JSON.parse(message);
    if (typeof event.server_event_seq === "number") this.lastSeq = Math.max(this.lastSeq, event.server_event_seq);
    if (typeof event.resume_token === "string") {
      this.token = event.resume_token;
      this.sessionId = String(event.session?.id ?? "");
    }
    return { type: String(event.type), nArrived: Number(event.client_events_received ?? 0) };
  }

  /** @param {string} message that is being sent, or would be if there were a connection */
  sent(message) {
    this.kept.push(message);
    this.nSent += 1;
    if (this.kept.length > KEPT) this.kept.shift();
  }

  /**
   * What a new connection asks for.
   *
   * @param {number | null} [audioReceivedMs] how far the sound of a media track arrived
   */
  asked(audioReceivedMs = null) {
    return {
      session_id: this.sessionId,
      resume_token: this.token,
      last_received_server_event_seq: this.lastSeq,
      ...(audioReceivedMs === null ? {} : { audio_received_ms: audioReceivedMs }),
    };
  }

  /** What a new connection begins with, where events are all there is. */
  request() {
    return JSON.stringify({ type: "session.resume", ...this.asked() });
  }

  /**
   * @param {number} nArrived
   * @returns {string[]} what the server does not have, to be sent again
   */
  missing(nArrived) {
    const nMissing = Math.max(0, this.nSent - nArrived);
    return nMissing === 0 ? [] : this.kept.slice(-nMissing);
  }
}
