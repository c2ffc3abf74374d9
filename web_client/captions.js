/**
 * What was said by both sides, word by word: already heard, still to come, or cut off by an interruption.
 *
 * Pure: server events and playback positions in, lines out. Knows nothing of the screen.
 *
 * @import { ServerEvent } from "./types.js"
 * @typedef {"heard" | "pending" | "cut"} WordState
 * @typedef {{ text: string, startMs: number }} Word
 * @typedef {{ id: string, who: "you" | "model" | "note", status: "open" | "done" | "cut", words: Word[],
 *             playedMs: number, text: string, typed: boolean, final: boolean, gap: string }} Line
 *   `gap`: white space that ended the newest delta
 * @typedef {{ text: string, state: WordState }} ShownWord
 * @typedef {{ id: string, who: "you" | "model" | "note", status: "open" | "done" | "cut", typed: boolean,
 *             words: ShownWord[] }} ShownLine
 */

/** Lines kept; the oldest goes when a new one comes. */
const LINES_KEPT = 200;

/** Speaking rate assumed for the words of the newest delta until the next one says when it starts: English speech runs
 * at about 15 characters a second, Mandarin at about 4.5 syllables, each one character. */
const MS_PER_LETTER = 66;
const MS_PER_IDEOGRAPH = 220;

const IDEOGRAPH = /[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]/u;

/** A word with the white space before it; white space at the end belongs to what follows. Each ideograph is a word of its own, with punctuation that follows it. */
const WORDS = /\s*(?:[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff][\u3000-\u303f\uff00-\uff0f\uff1a-\uff1f]*|[^\s\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+)/gu;

/**
 * @param {string} text
 * @returns {string[]} pieces that concatenate to `text`, but for white space at its end
 */
export function splitWords(text) {
  return text.match(WORDS) ?? [];
}

/**
 * @param {string} text
 * @returns {number} about how long it takes to say, ms
 */
export function spokenMs(text) {
  let total = 0;
  for (const letter of text) total += IDEOGRAPH.test(letter) ? MS_PER_IDEOGRAPH : MS_PER_LETTER;
  return total;
}

export class Captions {
  constructor() {
    /** @type {Line[]} oldest first, bounded by LINES_KEPT */
    this.list = [];
    /** @type {Map<string, string>} response id to item id, of the lines kept */
    this.itemOfResponse = new Map();
    /** Goes up with every change, so that a view knows when to draw. */
    this.version = 0;
  }

  /**
   * @param {string} id
   * @returns {Line | undefined}
   */
  find(id) {
    return this.list.findLast((line) => line.id === id);
  }

  /**
   * @param {string} id
   * @param {"you" | "model" | "note"} who
   * @returns {Line} the line of that id, made if it is new
   */
  line(id, who) {
    const known = this.find(id);
    if (known) return known;
    /** @type {Line} */
    const made = { id, who, status: "open", words: [], playedMs: 0, text: "", typed: false, final: false, gap: "" };
    this.list.push(made);
    if (this.list.length > LINES_KEPT) this.list.shift();
    this.version += 1;
    return made;
  }

  /**
   * @param {string} id
   * @returns {string}
   */
  textOf(id) {
    return this.find(id)?.text ?? "";
  }

  /**
   * Add a remark between the lines, such as "connected again".
   *
   * @param {string} text
   */
  note(text) {
    const made = this.line(`note-${this.version}`, "note");
    made.text = text;
    made.status = "done";
  }

  /**
   * Show at once what the person typed, before the server confirms it.
   *
   * @param {string} id
   * @param {string} text
   */
  type(id, text) {
    const made = this.line(id, "you");
    made.text = text;
    made.typed = true;
    made.final = true;
    made.status = "done";
  }

  /** @param {ServerEvent} event */
  receive(event) {
    switch (event.type) {
      case "input_audio_buffer.speech_started":
        this.line(event.item_id, "you");
        break;
      case "input_audio_buffer.speech_stopped":
        this.line(event.item_id, "you").status = "done";
        this.version += 1;
        break;
      case "conversation.item.input_audio_transcription.delta":
        this.understood(event.item_id, event.transcript ?? this.textOf(event.item_id) + event.delta, false);
        break;
      case "conversation.item.input_audio_transcription.completed":
        this.understood(event.item_id, event.transcript, true);
        break;
      case "response.output_item.added":
        this.itemOfResponse.set(event.response_id, event.item_id);
        if (this.itemOfResponse.size > LINES_KEPT) this.forgetOldestResponse();
        break;
      case "response.output_audio_transcript.delta":
        this.spoken(event.item_id, event.delta, event.audio_start_ms);
        break;
      case "conversation.item.truncated":
        this.truncate(event.item_id, event.audio_end_ms);
        break;
      case "response.done":
        this.ended(event.response_id, event.status);
        break;
      default:
    }
  }

  forgetOldestResponse() {
    const oldest = this.itemOfResponse.keys().next().value;
    if (oldest !== undefined) this.itemOfResponse.delete(oldest);
  }

  /**
   * @param {string} itemId
   * @param {string} text
   * @param {boolean} final
   */
  understood(itemId, text, final) {
    const line = this.line(itemId, "you");
    if (line.final && !final) return;
    line.text = text;
    line.final = final;
    if (final) line.status = "done";
    this.version += 1;
  }

  /**
   * @param {string} itemId
   * @param {string} delta
   * @param {number | null} startMs
   */
  spoken(itemId, delta, startMs) {
    const line = this.line(itemId, "model");
    const last = line.words.at(-1);
    const guess = last ? last.startMs + spokenMs(last.text) : 0;
    let at = startMs ?? guess;
    if (startMs !== null) squeeze(line.words, startMs);
    const whole = line.gap + delta;
    for (const text of splitWords(whole)) {
      line.words.push({ text, startMs: at });
      at += spokenMs(text);
    }
    line.gap = whole.slice(whole.trimEnd().length);
    this.version += 1;
  }

  /**
   * Take note of how far an item has been heard. Positions never go back.
   *
   * @param {string} itemId
   * @param {number} playedMs
   */
  played(itemId, playedMs) {
    const line = this.find(itemId);
    if (!line || line.status === "cut" || playedMs <= line.playedMs) return;
    const before = heardWords(line);
    line.playedMs = playedMs;
    if (heardWords(line) !== before) this.version += 1;
  }

  /**
   * An item's sound has ended by itself: all of it was heard.
   *
   * @param {string} itemId
   */
  finished(itemId) {
    this.played(itemId, Number.POSITIVE_INFINITY);
  }

  /**
   * @param {string} itemId
   * @param {number} audioEndMs
   */
  truncate(itemId, audioEndMs) {
    const line = this.find(itemId);
    if (!line || line.who !== "model") return;
    line.status = "cut";
    line.playedMs = audioEndMs;
    this.version += 1;
  }

  /**
   * @param {string} responseId
   * @param {string} status
   */
  ended(responseId, status) {
    const line = this.find(this.itemOfResponse.get(responseId) ?? "");
    if (!line || line.status === "cut") return;
    line.status = status === "cancelled" ? "cut" : "done";
    this.version += 1;
  }

  /** @returns {ShownLine[]} oldest first; lines of the person that hold no words have an empty list */
  shown() {
    return this.list.map((line) => ({
      id: line.id,
      who: line.who,
      status: line.status,
      typed: line.typed,
      words: line.who === "model" ? shownWords(line) : line.text ? [{ text: line.text, state: "heard" }] : [],
    }));
  }
}

/**
 * Make guessed times of earlier words fit before a time that is known.
 *
 * @param {Word[]} words
 * @param {number} endMs
 */
function squeeze(words, endMs) {
  let first = words.length;
  while (first > 0 && (words[first - 1]?.startMs ?? 0) >= endMs) first -= 1;
  const anchor = words[first - 1];
  if (!anchor || first === words.length) return;
  const late = words.slice(first);
  const room = Math.max(0, endMs - anchor.startMs);
  late.forEach((word, index) => {
    word.startMs = anchor.startMs + (room * (index + 1)) / (late.length + 1);
  });
}

/**
 * @param {Line} line
 * @returns {number} how many of its words have begun to be heard
 */
function heardWords(line) {
  const next = line.words.findIndex((word) => word.startMs >= line.playedMs);
  return next < 0 ? line.words.length : next;
}

/**
 * @param {Line} line
 * @returns {ShownWord[]}
 */
function shownWords(line) {
  const heard = heardWords(line);
  return line.words.map((word, index) => ({
    text: word.text,
    state: index < heard ? "heard" : line.status === "cut" ? "cut" : "pending",
  }));
}
