/**
 * What the scrolling timeline shows: loudness of both sides in columns, and what happened between them.
 *
 * Pure: it knows times and levels, nothing of canvases. Columns lie on a fixed grid of time, so that they do not
 * shimmer while they scroll.
 *
 * @typedef {{ user: number, model: number, speech: boolean, ducked: boolean }} Column levels 0..1
 * @typedef {{ kind: "interrupted", atMs: number } | { kind: "answer", fromMs: number, atMs: number }} Mark
 */

/** Width of a column in time. */
export const COLUMN_MS = 80;

/** Columns kept: 2 minutes. The oldest goes. */
const KEPT = 1500;

export class TimelineModel {
  constructor() {
    /** @type {Map<number, Column>} by index: time divided by COLUMN_MS; bounded by KEPT */
    this.columns = new Map();
    /** @type {Mark[]} oldest first; those older than the columns are dropped */
    this.marks = [];
    this.speech = false;
    this.ducked = false;
  }

  /**
   * @param {"user" | "model"} side
   * @param {number} level 0..1
   * @param {number} atMs
   */
  push(side, level, atMs) {
    const column = this.column(Math.floor(atMs / COLUMN_MS));
    column[side] = Math.max(column[side], level);
    column.speech ||= this.speech;
    column.ducked ||= this.ducked;
  }

  /**
   * @param {number} index
   * @returns {Column}
   */
  column(index) {
    const known = this.columns.get(index);
    if (known) return known;
    const made = { user: 0, model: 0, speech: false, ducked: false };
    this.columns.set(index, made);
    while (this.columns.size > KEPT) this.dropOldest();
    return made;
  }

  dropOldest() {
    const oldest = this.columns.keys().next().value;
    if (oldest === undefined) return;
    this.columns.delete(oldest);
    this.marks = this.marks.filter((mark) => mark.atMs >= oldest * COLUMN_MS);
  }

  /** @param {Mark} mark */
  mark(mark) {
    this.marks.push(mark);
    if (this.marks.length > KEPT) this.marks.shift();
  }
}

/** Levels below this are no voice: about 6 dB over the meter's floor. */
const VOICE_LEVEL = 0.14;

/**
 * @param {Column} column
 * @returns {boolean} whether both speak
 */
export function overlaps(column) {
  return column.user > VOICE_LEVEL && column.model > VOICE_LEVEL;
}
