import assert from "node:assert/strict";
import test from "node:test";

import { commandOf } from "../shortcuts.js";

const FREE = { typing: false, pressing: false, modal: false };

/**
 * @param {string} code
 * @param {object} [more]
 */
const key = (code, more) => ({ code, repeat: false, ctrlKey: false, altKey: false, metaKey: false, ...more });

test("keys have their commands", () => {
  const commands = ["Space", "Escape", "KeyC", "KeyT", "KeyS", "KeyX", "toString"].map((code) => commandOf(key(code), FREE));
  assert.deepEqual(commands, ["space", "interrupt", "camera", "type", "start", null, null]);
});

test("keys belong to a text field, to a dialog, to the browser, and once per press", () => {
  assert.equal(commandOf(key("KeyC"), { ...FREE, typing: true }), null);
  assert.equal(commandOf(key("Escape"), { ...FREE, modal: true }), null);
  assert.equal(commandOf(key("KeyC", { ctrlKey: true }), FREE), null);
  assert.equal(commandOf(key("KeyC", { metaKey: true }), FREE), null);
  assert.equal(commandOf(key("Space", { repeat: true }), FREE), null);
});

test("the space bar presses the button that has the focus", () => {
  assert.equal(commandOf(key("Space"), { ...FREE, pressing: true }), null);
  assert.equal(commandOf(key("KeyC"), { ...FREE, pressing: true }), "camera");
});
