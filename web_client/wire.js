/**
 * The border to the wire: JSON to checked events, and the events that the page sends.
 *
 * Knows the protocol's spelling; knows nothing about connections, state or the screen.
 *
 * @import { ClientEvent, Language, Policy, ServerEvent, SessionFacts } from "./types.js"
 */

/** Rate of `audio/pcm` on the wire. Source: OpenAI Realtime GA allows 24000 only. */
export const WIRE_RATE_HZ = 24000;

/** @typedef {Record<string, unknown>} Fields */

/**
 * @param {unknown} value
 * @returns {Fields}
 */
function fields(value) {
  return typeof value === "object" && value !== null ? /** @type {Fields} */ (value) : {};
}

/**
 * @param {unknown} value
 * @returns {string}
 */
function text(value) {
  return typeof value === "string" ? value : "";
}

/**
 * @param {unknown} value
 * @returns {number}
 */
function number(value) {
  return typeof value === "number" && Number.isFinite(value) ? value : 0;
}

/**
 * @param {unknown} value
 * @returns {string[]}
 */
function texts(value) {
  return Array.isArray(value) ? value.filter((entry) => typeof entry === "string") : [];
}

/**
 * @param {unknown} value
 * @returns {SessionFacts}
 */
function sessionFacts(value) {
  const session = fields(value);
  const capabilities = fields(session.capabilities);
  return {
    id: text(session.id),
    model: text(session.model),
    examples: texts(capabilities.examples),
    transcribes: capabilities.transcribes === true,
    languages: texts(capabilities.languages),
  };
}

/** @type {Record<string, (event: Fields) => ServerEvent>} */
const DECODERS = {
  "session.created": (event) => ({ type: "session.created", session: sessionFacts(event.session) }),
  "session.updated": (event) => ({ type: "session.updated", session: sessionFacts(event.session) }),
  "session.queued": inLine,
  "session.queue_update": inLine,
  "session.queue_done": () => ({ type: "session.queue_done" }),
  "session.closed": () => ({ type: "session.closed" }),
  "session.go_away": (event) => ({
    type: "session.go_away",
    reason: text(event.reason),
    time_left_ms: number(event.time_left_ms),
  }),
  error: (event) => {
    const error = fields(event.error);
    return { type: "error", code: text(error.code), message: text(error.message), kind: text(error.type) };
  },
  "input_audio_buffer.speech_started": (event) => ({
    type: "input_audio_buffer.speech_started",
    item_id: text(event.item_id),
    audio_start_ms: number(event.audio_start_ms),
  }),
  "input_audio_buffer.speech_stopped": (event) => ({
    type: "input_audio_buffer.speech_stopped",
    item_id: text(event.item_id),
    audio_end_ms: number(event.audio_end_ms),
  }),
  "conversation.item.truncated": (event) => ({
    type: "conversation.item.truncated",
    item_id: text(event.item_id),
    audio_end_ms: number(event.audio_end_ms),
  }),
  "conversation.item.input_audio_transcription.delta": (event) => ({
    type: "conversation.item.input_audio_transcription.delta",
    item_id: text(event.item_id),
    delta: text(event.delta),
    transcript: typeof event.transcript === "string" ? event.transcript : null,
  }),
  "conversation.item.input_audio_transcription.completed": (event) => ({
    type: "conversation.item.input_audio_transcription.completed",
    item_id: text(event.item_id),
    transcript: text(event.transcript),
  }),
  "response.created": (event) => ({ type: "response.created", response_id: text(fields(event.response).id) }),
  "response.output_item.added": (event) => ({
    type: "response.output_item.added",
    response_id: text(event.response_id),
    item_id: text(fields(event.item).id),
  }),
  "response.output_audio.delta": (event) => ({
    type: "response.output_audio.delta",
    response_id: text(event.response_id),
    item_id: text(event.item_id),
    delta: text(event.delta),
  }),
  "response.output_audio_transcript.delta": transcriptDelta,
  "response.output_text.delta": transcriptDelta,
  "response.done": (event) => {
    const response = fields(event.response);
    return {
      type: "response.done",
      response_id: text(response.id),
      status: text(response.status),
      reason: text(fields(response.status_details).reason),
      detail: text(fields(fields(response.status_details).error).message),
    };
  },
  "output_audio_buffer.started": (event) => ({
    type: "output_audio_buffer.started",
    response_id: text(event.response_id),
  }),
  "output_audio_buffer.stopped": (event) => ({
    type: "output_audio_buffer.stopped",
    response_id: text(event.response_id),
  }),
  "output_audio_buffer.cleared": (event) => ({
    type: "output_audio_buffer.cleared",
    response_id: text(event.response_id),
  }),
  "overlap.decision": (event) => ({ type: "overlap.decision", action: text(event.action), reason: text(event.reason) }),
  "playback.position": (event) => ({
    type: "playback.position",
    response_id: text(event.response_id),
    played_ms: number(event.played_ms),
  }),
  "session.heartbeat_ack": () => ({ type: "session.heartbeat_ack" }),
};

/**
 * @param {Fields} event
 * @returns {ServerEvent}
 */
function inLine(event) {
  return { type: "session.queued", position: number(event.position), estimated_wait_s: number(event.estimated_wait_s) };
}

/**
 * @param {Fields} event
 * @returns {ServerEvent}
 */
function transcriptDelta(event) {
  return {
    type: "response.output_audio_transcript.delta",
    response_id: text(event.response_id),
    item_id: text(event.item_id),
    delta: text(event.delta),
    audio_start_ms: typeof event.audio_start_ms === "number" ? event.audio_start_ms : null,
  };
}

/**
 * Read one message of the server.
 *
 * @param {string} message
 * @returns {ServerEvent} never throws: what cannot be read, or is not known, is `{type: "other"}`
 */
export function decodeServerEvent(message) {
  let event;
  try {
    event = fields(JSON.parse(message));
  } catch {
    return { type: "other", name: "unreadable" };
  }
  const type = text(event.type);
  const decode = Object.hasOwn(DECODERS, type) ? DECODERS[type] : undefined;
  return decode ? decode(event) : { type: "other", name: type };
}

/**
 * Say how the conversation is to go. Sent when a connection opens and whenever a choice changes.
 *
 * @param {Policy} policy who may interrupt whom
 * @param {Language} language
 * @returns {ClientEvent}
 */
export function sessionUpdate(policy, language) {
  return {
    type: "session.update",
    session: {
      type: "realtime",
      audio: {
        input: {
          format: { type: "audio/pcm", rate: WIRE_RATE_HZ },
          turn_detection: policy === "push_to_talk" ? null : { type: "semantic_vad" },
        },
        output: { format: { type: "audio/pcm", rate: WIRE_RATE_HZ } },
      },
      extra_body: { duplex_events: ["overlap", "playback", "limits"], interruption: policy, language },
    },
  };
}

/**
 * @param {string} itemId a new item's id
 * @param {string} message what the person typed
 * @returns {ClientEvent[]}
 */
export function typedMessage(itemId, message) {
  return [
    {
      type: "conversation.item.create",
      item: { id: itemId, type: "message", role: "user", content: [{ type: "input_text", text: message }] },
    },
    { type: "response.create" },
  ];
}

/**
 * @param {string} jpeg base64
 * @returns {ClientEvent} a picture taken just now
 */
export function cameraStill(jpeg) {
  return { type: "input_image_buffer.append", image: jpeg };
}
