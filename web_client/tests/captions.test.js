import assert from "node:assert/strict";
import test from "node:test";

import { Captions, spokenMs, splitWords } from "../captions.js";

/**
 * @param {Captions} captions
 * @param {string} delta
 * @param {number | null} startMs
 */
function say(captions, delta, startMs) {
  captions.receive({
    type: "response.output_audio_transcript.delta",
    response_id: "r",
    item_id: "m",
    delta,
    audio_start_ms: startMs,
  });
}

/** @returns {Captions} one response of three words at 0, 400 and 800 ms */
function threeWords() {
  const captions = new Captions();
  captions.receive({ type: "response.output_item.added", response_id: "r", item_id: "m" });
  say(captions, "one", 0);
  say(captions, " two", 400);
  say(captions, " three", 800);
  return captions;
}

/** @param {Captions} captions */
const states = (captions) => captions.shown().at(-1)?.words.map((word) => word.state) ?? [];

test("words are heard as the playback passes them", () => {
  const captions = threeWords();
  assert.deepEqual(states(captions), ["pending", "pending", "pending"]);
  captions.played("m", 450);
  assert.deepEqual(states(captions), ["heard", "heard", "pending"]);
  captions.finished("m");
  assert.deepEqual(states(captions), ["heard", "heard", "heard"]);
});

test("a position never goes back", () => {
  const captions = threeWords();
  captions.played("m", 900);
  captions.played("m", 100);
  assert.deepEqual(states(captions), ["heard", "heard", "heard"]);
});

test("an interruption strikes what was not heard", () => {
  const captions = threeWords();
  captions.played("m", 450);
  captions.receive({ type: "response.done", response_id: "r", status: "cancelled", reason: "turn_detected", detail: "" });
  assert.deepEqual(states(captions), ["heard", "heard", "cut"]);
  assert.equal(captions.shown()[0]?.status, "cut");
});

test("the server's truncation has the last word on what was heard", () => {
  const captions = threeWords();
  captions.played("m", 900);
  captions.receive({ type: "conversation.item.truncated", item_id: "m", audio_end_ms: 300 });
  assert.deepEqual(states(captions), ["heard", "cut", "cut"]);
  captions.played("m", 2000);
  assert.deepEqual(states(captions), ["heard", "cut", "cut"]);
});

test("a response that is made but not yet played is not heard", () => {
  const captions = threeWords();
  captions.receive({ type: "response.done", response_id: "r", status: "completed", reason: "", detail: "" });
  assert.deepEqual(states(captions), ["pending", "pending", "pending"]);
});

test("words of one delta are spread over the time until the next", () => {
  const captions = new Captions();
  say(captions, "alpha beta gamma delta", 1000);
  say(captions, " end", 1300);
  const starts = captions.find("m")?.words.map((word) => word.startMs) ?? [];
  assert.deepEqual(starts, [...starts].sort((a, b) => a - b));
  assert.equal(starts[0], 1000);
  assert.equal(starts.at(-1), 1300);
  assert.ok(starts.every((start, i) => i === 0 || start > (starts[i - 1] ?? 0)));
});

test("without positions the speaking rate decides", () => {
  const captions = new Captions();
  say(captions, "hello", null);
  say(captions, " world", null);
  assert.equal(captions.find("m")?.words[1]?.startMs, spokenMs("hello"));
});

test("what the person says grows, is revised, and ends", () => {
  const captions = new Captions();
  const type = "conversation.item.input_audio_transcription.delta";
  captions.receive({ type: "input_audio_buffer.speech_started", item_id: "u", audio_start_ms: 0 });
  captions.receive({ type, item_id: "u", delta: "what", transcript: null });
  captions.receive({ type, item_id: "u", delta: " time", transcript: null });
  assert.equal(captions.textOf("u"), "what time");
  captions.receive({ type, item_id: "u", delta: "", transcript: "what lime" });
  assert.equal(captions.textOf("u"), "what lime");
  captions.receive({ type: "conversation.item.input_audio_transcription.completed", item_id: "u", transcript: "what time is it" });
  captions.receive({ type, item_id: "u", delta: "late", transcript: null });
  assert.deepEqual(captions.shown()[0]?.words, [{ text: "what time is it", state: "heard" }]);
  assert.equal(captions.shown()[0]?.status, "done");
});

test("speech without words keeps its place among the lines", () => {
  const captions = new Captions();
  captions.receive({ type: "input_audio_buffer.speech_started", item_id: "u", audio_start_ms: 0 });
  captions.receive({ type: "input_audio_buffer.speech_stopped", item_id: "u", audio_end_ms: 900 });
  assert.deepEqual(captions.shown(), [{ id: "u", who: "you", status: "done", typed: false, words: [] }]);
});

test("a typed message stands at once", () => {
  const captions = new Captions();
  captions.type("u", "hello");
  assert.deepEqual(captions.shown()[0], { id: "u", who: "you", status: "done", typed: true, words: [{ text: "hello", state: "heard" }] });
});

test("words split at white space, and Chinese at each character", () => {
  for (const text of ["It is four.", " a  b ", "你好，世界。ok then", "「引号」很好！", "", "  "]) {
    assert.equal(splitWords(text).join(""), text.trimEnd());
  }
  assert.deepEqual(splitWords("It is four."), ["It", " is", " four."]);
  assert.deepEqual(splitWords("你好，世界。"), ["你", "好，", "世", "界。"]);
});

test("white space at the end of a delta belongs to the next word", () => {
  const captions = new Captions();
  for (const delta of ["Sorry, ", "I ", "did not ", "", "understand."]) say(captions, delta, null);
  assert.deepEqual(captions.shown()[0]?.words.map((word) => word.text), ["Sorry,", " I", " did", " not", " understand."]);
});

test("old lines make room for new ones", () => {
  const captions = new Captions();
  for (let i = 0; i < 300; i += 1) captions.type(`u${i}`, "x");
  assert.equal(captions.shown().length, 200);
  assert.equal(captions.shown().at(-1)?.id, "u299");
});

test("notes stand between lines", () => {
  const captions = new Captions();
  captions.note("connected again");
  captions.note("connected again");
  assert.equal(captions.shown().length, 2);
});
