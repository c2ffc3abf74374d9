/**
 * Keys that work anywhere on the page except where they mean something else.
 *
 * @typedef {"start" | "space" | "interrupt" | "camera" | "type"} Command
 */

/** @type {Record<string, Command>} */
const COMMANDS = { KeyS: "start", Space: "space", Escape: "interrupt", KeyC: "camera", KeyT: "type" };

/** Elements to which keys belong while they have the focus. */
const TYPING = "input:not([type=radio]), textarea, select, [contenteditable]";

/**
 * @param {{ code: string, repeat: boolean, ctrlKey: boolean, altKey: boolean, metaKey: boolean }} key
 * @param {{ typing: boolean, pressing: boolean, modal: boolean }} focus what has the focus: a text field, a control
 *   that the space bar presses, something in an open dialog
 * @returns {Command | null}
 */
export function commandOf(key, focus) {
  if (key.repeat || key.ctrlKey || key.altKey || key.metaKey || focus.typing || focus.modal) return null;
  const command = Object.hasOwn(COMMANDS, key.code) ? COMMANDS[key.code] : undefined;
  if (!command || (command === "space" && focus.pressing)) return null;
  return command;
}

/**
 * @param {(command: Command, down: boolean) => void} onCommand `down` false only for the space bar's release
 */
export function listenForKeys(onCommand) {
  let spaceHeld = false;
  document.addEventListener("keydown", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const focus = {
      typing: target?.matches(TYPING) ?? false,
      pressing: target?.matches("button, summary, input, a") ?? false,
      modal: document.querySelector("dialog[open]") !== null,
    };
    const command = commandOf(event, focus);
    if (event.code === "Space" && spaceHeld) event.preventDefault();
    if (!command) return;
    event.preventDefault();
    if (command === "space") spaceHeld = true;
    onCommand(command, true);
  });
  document.addEventListener("keyup", (event) => {
    if (event.code !== "Space" || !spaceHeld) return;
    spaceHeld = false;
    onCommand("space", false);
  });
  // A key that is let go elsewhere never tells; a microphone must not stay open for it.
  window.addEventListener("blur", () => {
    if (spaceHeld) onCommand("space", false);
    spaceHeld = false;
  });
}
