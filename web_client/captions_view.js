/**
 * Shows captions, and hands whole lines to screen readers once they are complete.
 *
 * @import { ShownLine, ShownWord } from "./captions.js"
 * @import { Say } from "./timeline.js"
 */

import { find, setText } from "./dom.js";

/** Distance from the end within which the list follows what is said; further up the person is reading. */
const FOLLOW_PX = 80;

/** Lines that screen readers can look back on in the live region. */
const ANNOUNCED_KEPT = 20;

export class CaptionsView {
  /** @param {Say} say */
  constructor(say) {
    this.say = say;
    this.box = find("#captions", HTMLElement);
    this.panel = find(".conversation", HTMLElement);
    this.list = find("#lines", HTMLOListElement);
    this.empty = find("#captions-empty", HTMLElement);
    this.live = find("#announce-lines", HTMLElement);
    /** @type {Map<string, HTMLElement>} */
    this.elements = new Map();
    /** @type {Set<string>} lines that have been handed to screen readers */
    this.announced = new Set();
  }

  /** @param {readonly ShownLine[]} lines oldest first */
  draw(lines) {
    const follow = this.box.scrollHeight - this.box.scrollTop - this.box.clientHeight < FOLLOW_PX;
    this.empty.hidden = lines.length > 0;
    this.panel.classList.toggle("has-lines", lines.length > 0);
    const ids = new Set(lines.map((line) => line.id));
    for (const [id, element] of this.elements) {
      if (ids.has(id)) continue;
      element.remove();
      this.elements.delete(id);
      this.announced.delete(id);
    }
    for (const line of lines) {
      this.drawLine(line);
      this.announce(line);
    }
    if (follow) this.box.scrollTop = this.box.scrollHeight;
  }

  /** Write all lines again, after the language changed. */
  redraw() {
    this.list.replaceChildren();
    this.elements.clear();
  }

  /** @param {ShownLine} line */
  drawLine(line) {
    const element = this.elements.get(line.id) ?? this.makeLine(line);
    element.dataset.status = line.status;
    element.classList.toggle("line-wordless", line.words.length === 0);
    const text = find(".line-text", HTMLElement, element);
    if (line.who !== "note") setText(find("em", HTMLElement, element), this.remark(line));
    if (line.words.length === 0) setText(text, line.status === "open" ? "…" : "");
    else drawWords(text, line.words);
  }

  /**
   * @param {ShownLine} line
   * @returns {HTMLElement}
   */
  makeLine(line) {
    const element = document.createElement("li");
    element.className = `line line-${line.who}`;
    if (line.who !== "note") {
      const who = document.createElement("p");
      who.className = "line-who";
      who.textContent = this.say(line.who === "you" ? "you" : "model");
      who.append(document.createElement("em"));
      element.append(who);
    }
    const text = document.createElement("p");
    text.className = "line-text";
    element.append(text);
    this.elements.set(line.id, element);
    this.list.append(element);
    return element;
  }

  /**
   * @param {ShownLine} line
   * @returns {string}
   */
  remark(line) {
    if (line.status === "cut") return this.say("conversation.cut");
    if (line.typed) return this.say("conversation.typed");
    if (line.who === "you" && line.words.length === 0) {
      return this.say(line.status === "open" ? "conversation.speaking" : "conversation.spoke");
    }
    return "";
  }

  /** @param {ShownLine} line */
  announce(line) {
    const complete = line.status !== "open" && line.words.length > 0 && !line.words.some((word) => word.state === "pending");
    if (!complete || this.announced.has(line.id)) return;
    this.announced.add(line.id);
    if (line.typed) return;
    const text = line.words.filter((word) => word.state === "heard").map((word) => word.text).join("").trim();
    const entry = document.createElement("p");
    entry.textContent = line.who === "note" ? text : this.say("announce.line", { who: this.say(line.who === "you" ? "you" : "model"), text });
    this.live.append(entry);
    while (this.live.childElementCount > ANNOUNCED_KEPT) this.live.firstElementChild?.remove();
  }
}

/**
 * @param {HTMLElement} element
 * @param {readonly ShownWord[]} words
 */
function drawWords(element, words) {
  if (element.firstElementChild === null || element.children.length > words.length) element.replaceChildren();
  words.forEach((word, index) => {
    let span = element.children[index];
    if (!span) {
      span = document.createElement("span");
      // White space stands outside, so that it is neither marked nor struck through.
      element.append(word.text.slice(0, word.text.length - word.text.trimStart().length), span);
    }
    setText(span, word.text.trimStart());
    const last = word.state === "heard" && words[index + 1]?.state === "pending";
    const name = last ? "heard now" : word.state;
    if (span.className !== name) span.className = name;
  });
}
