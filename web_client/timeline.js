/**
 * Draws the scrolling timeline: your voice above the axis, the model's below, newest at the right.
 *
 * Speech that the server recognised underlines your lane; where both speak the ground is tinted; an interruption is a
 * line through both lanes; an answer is a bracket from the end of your speech to its first sound, with its time.
 *
 * @import { TimelineModel, Mark, Column } from "./timeline_model.js"
 * @import { TextKey } from "./i18n.js"
 * @typedef {(key: TextKey, values?: Record<string, string | number>) => string} Say
 */

import { readPalette, sizedPen } from "./dom.js";
import { withAlpha } from "./stage.js";
import { COLUMN_MS, overlaps } from "./timeline_model.js";

/** Width of a column and of the bar in it. */
const COLUMN_PX = 5;
const BAR_PX = 3;

/** Room at the right edge, where "now" is. */
const NOW_PX = 34;

/** The tallest bar, as a share of its lane. */
const TALLEST = 0.82;

/** Where nothing is heard a dot shows that time goes on. */
const REST_PX = 1.5;

/** No line of the scale is drawn nearer to the left edge than this. */
const SCALE_ROOM_PX = 24;

/** A bracket narrower than this has its time written beside it. */
const LABEL_ROOM_PX = 60;

/** Time between the lines of the scale. */
const SCALE_MS = 5000;

export class TimelineView {
  /**
   * @param {HTMLCanvasElement} canvas
   * @param {Say} say
   */
  constructor(canvas, say) {
    this.canvas = canvas;
    this.say = say;
    this.palette = readPalette();
    this.family = getComputedStyle(canvas).fontFamily;
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { this.palette = readPalette(); });
  }

  /** Say in words what the picture shows. */
  describe() {
    const seconds = Math.round(((this.canvas.clientWidth - NOW_PX) / COLUMN_PX) * (COLUMN_MS / 1000));
    this.canvas.setAttribute("aria-label", this.say("timeline.label", { seconds }));
  }

  /**
   * @param {TimelineModel} model
   * @param {number} nowMs
   */
  draw(model, nowMs) {
    const surface = sizedPen(this.canvas);
    if (!surface) return;
    const { pen, width_px, height_px } = surface;
    const axis = Math.round(height_px / 2) + 0.5;
    const nowX = width_px - NOW_PX;
    /** @type {(atMs: number) => number} */
    const xOf = (atMs) => nowX - ((nowMs - atMs) / COLUMN_MS) * COLUMN_PX;
    this.grid(pen, xOf, nowMs, height_px);
    const newest = Math.floor(nowMs / COLUMN_MS);
    const shown = Math.ceil(nowX / COLUMN_PX) + 1;
    for (let index = newest - shown; index <= newest; index += 1) {
      const column = model.columns.get(index);
      const x = xOf((index + 1) * COLUMN_MS) ;
      if (x > -COLUMN_PX && x <= nowX) this.bars(pen, column, x, axis);
    }
    this.scale(pen, xOf, nowMs, height_px);
    for (const mark of model.marks) this.mark(pen, mark, xOf, axis, height_px);
    this.now(pen, nowX, height_px);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {(atMs: number) => number} xOf
   * @param {number} nowMs
   * @param {number} height
   */
  grid(pen, xOf, nowMs, height) {
    pen.strokeStyle = this.palette.line;
    pen.lineWidth = 1;
    for (let back = SCALE_MS; xOf(nowMs - back) > SCALE_ROOM_PX; back += SCALE_MS) {
      const x = Math.round(xOf(nowMs - back)) + 0.5;
      line(pen, x, 0, x, height);
    }
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {(atMs: number) => number} xOf
   * @param {number} nowMs
   * @param {number} height
   */
  scale(pen, xOf, nowMs, height) {
    for (let back = SCALE_MS; xOf(nowMs - back) > SCALE_ROOM_PX; back += SCALE_MS) {
      const text = `−${this.say("timeline.seconds", { seconds: back / 1000 })}`;
      this.label(pen, text, xOf(nowMs - back) + 5, height - 6, "left");
    }
  }

  /**
   * Write over bars so that it can still be read.
   *
   * @param {CanvasRenderingContext2D} pen
   * @param {string} text
   * @param {number} x
   * @param {number} y
   * @param {"left" | "center"} align
   * @param {boolean} [strong]
   */
  label(pen, text, x, y, align, strong = false) {
    pen.font = `${strong ? "600 12px" : "11px"} ${this.family}`;
    pen.textAlign = align;
    pen.lineJoin = "round";
    pen.lineWidth = 5;
    pen.strokeStyle = this.palette.card;
    pen.strokeText(text, x, y);
    pen.fillStyle = strong ? this.palette.ink : this.palette["ink-soft"];
    pen.fillText(text, x, y);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Column | undefined} column
   * @param {number} x
   * @param {number} axis
   */
  bars(pen, column, x, axis) {
    const lane = axis * TALLEST;
    if (column && overlaps(column)) {
      pen.fillStyle = withAlpha(this.palette.warn, 0.13);
      pen.fillRect(x - 1, 0, COLUMN_PX, axis * 2);
    }
    pen.fillStyle = column ? this.palette.you : this.palette.line;
    bar(pen, x, axis - 3, -Math.max(REST_PX, (column?.user ?? 0) * lane));
    pen.fillStyle = column ? withAlpha(this.palette.model, column.ducked ? 0.45 : 1) : this.palette.line;
    bar(pen, x, axis + 3, Math.max(REST_PX, (column?.model ?? 0) * lane));
    if (!column?.speech) return;
    pen.fillStyle = this.palette.you;
    pen.fillRect(x - 1, axis - 1, COLUMN_PX, 2);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {Mark} mark
   * @param {(atMs: number) => number} xOf
   * @param {number} axis
   * @param {number} height
   */
  mark(pen, mark, xOf, axis, height) {
    const x = xOf(mark.atMs);
    if (x < -60) return;
    if (mark.kind === "interrupted") this.interruption(pen, x, axis, height);
    else this.answer(pen, xOf(mark.fromMs), x, axis, mark.atMs - mark.fromMs);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {number} x
   * @param {number} axis
   * @param {number} height
   */
  interruption(pen, x, axis, height) {
    pen.strokeStyle = this.palette.cut;
    pen.lineWidth = 2;
    line(pen, x, 6, x, height - 6);
    pen.fillStyle = this.palette.cut;
    pen.beginPath();
    pen.arc(x, axis, 8, 0, 2 * Math.PI);
    pen.fill();
    pen.strokeStyle = this.palette.card;
    line(pen, x - 3, axis - 3, x + 3, axis + 3);
    line(pen, x + 3, axis - 3, x - 3, axis + 3);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {number} from
   * @param {number} to
   * @param {number} axis
   * @param {number} latencyMs
   */
  answer(pen, from, to, axis, latencyMs) {
    const top = axis * (1 - TALLEST) - 2;
    pen.strokeStyle = this.palette["ink-soft"];
    pen.lineWidth = 1.25;
    pen.beginPath();
    pen.moveTo(from, axis - 6);
    pen.lineTo(from, top);
    pen.lineTo(to, top);
    pen.lineTo(to, axis + 6);
    pen.stroke();
    const text = this.say("timeline.seconds", { seconds: (latencyMs / 1000).toFixed(2) });
    // The person has stopped talking by then: right of the bracket there is room above the axis.
    if (to - from < LABEL_ROOM_PX) this.label(pen, text, to + 6, top + 12, "left", true);
    else this.label(pen, text, (from + to) / 2, top + 16, "center", true);
  }

  /**
   * @param {CanvasRenderingContext2D} pen
   * @param {number} x
   * @param {number} height
   */
  now(pen, x, height) {
    pen.strokeStyle = this.palette["line-strong"];
    pen.lineWidth = 1;
    pen.setLineDash([2, 4]);
    line(pen, Math.round(x) + 3.5, 0, Math.round(x) + 3.5, height);
    pen.setLineDash([]);
    this.label(pen, this.say("timeline.now"), x + 8, height / 2 + 4, "left");
  }
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} x1
 * @param {number} y1
 * @param {number} x2
 * @param {number} y2
 */
function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {number} x
 * @param {number} y
 * @param {number} height negative: upwards
 */
function bar(pen, x, y, height) {
  pen.beginPath();
  pen.roundRect(x, Math.min(y, y + height), BAR_PX, Math.abs(height), BAR_PX / 2);
  pen.fill();
}
