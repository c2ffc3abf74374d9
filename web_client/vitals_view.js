/**
 * Shows the small figures: time of the last answer, quality of the connection, and the two level meters.
 *
 * @import { Latency } from "./latency.js"
 * @import { Say } from "./timeline.js"
 * @import { Quality } from "./types.js"
 * @import { TextKey } from "./i18n.js"
 */

import { find, setText } from "./dom.js";
import { gradeOf } from "./quality.js";

/** Screen readers read a meter's value when asked; it need not be newer than this. */
const METER_TEXT_EVERY_MS = 500;

export class VitalsView {
  /** @param {Say} say */
  constructor(say) {
    this.say = say;
    this.latency = find("#latency", HTMLElement);
    this.latencyValue = find("#latency-value", HTMLElement);
    this.bars = find(".bars", HTMLElement);
    this.word = find("#quality-word", HTMLElement);
    this.figures = find("#quality-figures", HTMLElement);
    this.meters = {
      you: find(".meter-you", HTMLElement),
      model: find(".meter-model", HTMLElement),
    };
    this.fills = { you: find("i", HTMLElement, this.meters.you), model: find("i", HTMLElement, this.meters.model) };
    this.metersSaidAtMs = 0;
  }

  /** @param {Latency | null} latency */
  drawLatency(latency) {
    const seconds = latency ? (latency.latencyMs / 1000).toFixed(2) : "";
    setText(this.latencyValue, latency ? this.say("vital.seconds", { seconds }) : this.say("vital.latency.none"));
    this.latency.title = this.say("vital.latency.label");
  }

  /** @param {Quality | null} quality null: not connected */
  drawQuality(quality) {
    const grade = gradeOf(quality);
    this.bars.dataset.grade = String(grade);
    setText(this.word, this.say(`quality.${grade}`));
    const rows = quality ? this.rows(quality) : [];
    const text = rows.map((row) => row.join("\u0000")).join("\u0001");
    if (this.figures.dataset.text === text) return;
    this.figures.dataset.text = text;
    this.figures.replaceChildren(...rows.flatMap(([name, value]) => [termOf("dt", name), termOf("dd", value)]));
  }

  /**
   * @param {Quality} quality
   * @returns {[string, string][]} name and value of what is known
   */
  rows(quality) {
    const transport = quality.kind === "webrtc" ? "WebRTC" : "WebSocket";
    /** @type {[string, string][]} */
    const rows = [[this.say("vital.quality"), transport]];
    /** @type {(key: TextKey, unit: TextKey, value: number | null, digits?: number) => void} */
    const add = (key, unit, value, digits = 0) => {
      if (value !== null) rows.push([this.say(key), this.say(unit, { value: value.toFixed(digits) })]);
    };
    add("quality.rtt", "quality.ms", quality.rttMs);
    add("quality.jitter", "quality.ms", quality.jitterMs);
    add("quality.loss", "quality.percent", quality.loss === null ? null : quality.loss * 100, 1);
    add("quality.buffered", "quality.kb", quality.bufferedBytes === null ? null : quality.bufferedBytes / 1000);
    add("quality.underruns", "quality.times", quality.underruns);
    return rows;
  }

  /**
   * @param {{ you: number, model: number }} levels 0..1
   * @param {number} nowMs
   */
  drawMeters(levels, nowMs) {
    const say = nowMs - this.metersSaidAtMs > METER_TEXT_EVERY_MS;
    if (say) this.metersSaidAtMs = nowMs;
    for (const side of /** @type {const} */ (["you", "model"])) {
      const width = `scaleX(${levels[side].toFixed(2)})`;
      if (this.fills[side].style.transform !== width) this.fills[side].style.transform = width;
      if (say) this.meters[side].setAttribute("aria-valuenow", String(Math.round(levels[side] * 100)));
    }
  }
}

/**
 * @param {"dt" | "dd"} tag
 * @param {string} text
 * @returns {HTMLElement}
 */
function termOf(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}
