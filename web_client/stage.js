/**
 * The big picture: two circles, you and the model. Apart they are not connected; together they are; who speaks swells.
 *
 * Draws on a canvas and moves the icons on top. Knows views and levels, nothing of the conversation.
 *
 * @import { View } from "./session_state.js"
 *
 * @typedef {object} Pose where a view wants the circles
 * @property {number} apart distance of the centres, in radii
 * @property {number} you how present a circle is, 0..1
 * @property {number} model
 * @property {number} modelSize relative radius
 * @property {number} youSize
 */

import { readPalette, reducedMotion, sizedPen } from "./dom.js";

/** @type {Record<View, Pose>} */
const POSES = {
  idle: { apart: 2.16, you: 0.5, model: 0.5, youSize: 0.9, modelSize: 0.9 },
  connecting: { apart: 1.86, you: 0.6, model: 0.6, youSize: 0.9, modelSize: 0.9 },
  queued: { apart: 1.86, you: 0.3, model: 0.6, youSize: 0.9, modelSize: 0.9 },
  listening: { apart: 1.42, you: 0.8, model: 0.62, youSize: 1, modelSize: 0.94 },
  muted: { apart: 1.42, you: 0.3, model: 0.62, youSize: 0.9, modelSize: 0.94 },
  hearing: { apart: 1.38, you: 1, model: 0.5, youSize: 1.1, modelSize: 0.88 },
  speaking: { apart: 1.38, you: 0.5, model: 1, youSize: 0.88, modelSize: 1.1 },
  interrupted: { apart: 1.5, you: 1, model: 0.22, youSize: 1.06, modelSize: 0.74 },
  reconnecting: { apart: 2.3, you: 0.4, model: 0.4, youSize: 0.88, modelSize: 0.88 },
  error: { apart: 2.45, you: 0.3, model: 0.3, youSize: 0.86, modelSize: 0.86 },
};

/** How fast the circles move to their pose: share of the way left after a second. */
const LEFT_AFTER_1_S = 0.002;

/** Corners of a circle's outline; enough for a smooth wobble. */
const CORNERS = 90;

/** Outlines around a voice, and how far each reaches at full loudness, in radii. */
const RIPPLES = [0.09, 0.18, 0.28];

export class Stage {
  /** @param {HTMLElement} root holds the canvas and the icons */
  constructor(root) {
    const canvas = root.querySelector("canvas");
    const you = root.querySelector(".voice-you");
    const model = root.querySelector(".voice-model");
    if (!canvas || !(you instanceof HTMLElement) || !(model instanceof HTMLElement)) throw new TypeError("no stage");
    this.canvas = canvas;
    this.you = you;
    this.model = model;
    this.pose = { ...POSES.idle };
    /** @type {View} */
    this.view = "idle";
    this.palette = readPalette();
    this.dark = matchMedia("(prefers-color-scheme: dark)");
    this.dark.addEventListener("change", () => { this.palette = readPalette(); });
    this.drawnAtMs = 0;
  }

  /**
   * @param {number} nowMs
   * @param {View} view
   * @param {{ you: number, model: number }} levels 0..1
   */
  draw(nowMs, view, levels) {
    const surface = sizedPen(this.canvas);
    if (!surface) return;
    this.view = view;
    this.approach(POSES[view], nowMs);
    const { pen, width_px, height_px } = surface;
    const radius = Math.min(width_px / 5.2, height_px / 3.25);
    const still = reducedMotion();
    const seconds = still ? 0 : nowMs / 1000;
    const breath = still ? 0 : 0.018 * Math.sin(seconds * 1.7);
    const pulse = view === "connecting" && !still ? 0.16 * Math.sin(seconds * 3.2) : 0;
    const half = (radius * (this.pose.apart + pulse)) / 2;
    const middle = height_px / 2;
    const you = { x: width_px / 2 - half, y: middle, r: radius * (this.pose.youSize + breath) };
    const model = { x: width_px / 2 + half, y: middle, r: radius * (this.pose.modelSize - breath) };
    const colours = this.colours();
    pen.globalCompositeOperation = this.dark.matches ? "screen" : "multiply";
    disc(pen, you, colours.you, this.pose.you, levels.you, seconds);
    disc(pen, model, colours.model, this.pose.model, levels.model, seconds + 40);
    pen.globalCompositeOperation = "source-over";
    if (view === "interrupted") brokenRing(pen, { ...model, r: radius }, this.palette.cut);
    if (view === "reconnecting" || view === "connecting" || view === "queued") this.thread(pen, you, model, seconds);
    place(this.you, you, view === "hearing" ? 1 : 0.86);
    place(this.model, model, 0.86);
  }

  colours() {
    const grey = this.palette["ink-soft"];
    if (this.view === "error") return { you: grey, model: grey };
    return { you: this.view === "muted" ? grey : this.palette.you, model: this.palette.model };
  }

  /**
   * @param {Pose} goal
   * @param {number} nowMs
   */
  approach(goal, nowMs) {
    const passed_s = Math.min(0.25, (nowMs - this.drawnAtMs) / 1000);
    this.drawnAtMs = nowMs;
    const share = reducedMotion() ? 1 : 1 - LEFT_AFTER_1_S ** passed_s;
    for (const name of /** @type {(keyof Pose)[]} */ (Object.keys(goal))) {
      this.pose[name] += (goal[name] - this.pose[name]) * share;
    }
  }

  /**
   * Dots that travel between the circles while the connection is being made.
   *
   * @param {CanvasRenderingContext2D} pen
   * @param {Circle} you
   * @param {Circle} model
   * @param {number} seconds
   */
  thread(pen, you, model, seconds) {
    const from = you.x + you.r;
    const room = model.x - model.r - from;
    pen.fillStyle = this.view === "reconnecting" ? this.palette.warn : this.palette.model;
    for (let i = 0; i < 3; i += 1) {
      const way = (seconds * 0.5 + i / 3) % 1;
      pen.globalAlpha = room > 6 ? Math.sin(Math.PI * way) : 0;
      pen.beginPath();
      pen.arc(from + room * way, you.y, 3, 0, 2 * Math.PI);
      pen.fill();
    }
    pen.globalAlpha = 1;
  }
}

/** @typedef {{ x: number, y: number, r: number }} Circle */

/**
 * @param {CanvasRenderingContext2D} pen
 * @param {Circle} circle
 * @param {string} colour
 * @param {number} presence 0..1
 * @param {number} level 0..1
 * @param {number} seconds
 */
function disc(pen, circle, colour, presence, level, seconds) {
  pen.strokeStyle = colour;
  pen.fillStyle = colour;
  RIPPLES.forEach((reach, index) => {
    const alpha = presence * (0.1 + 0.75 * level) * (1 - index / RIPPLES.length);
    if (level < 0.03) return;
    pen.globalAlpha = alpha * 0.55;
    pen.lineWidth = 2;
    outline(pen, { ...circle, r: circle.r * (1 + reach * level * 1.15 + 0.015 * index) }, level * 0.05, seconds + index);
    pen.stroke();
  });
  const glow = pen.createRadialGradient(circle.x, circle.y - circle.r * 0.3, circle.r * 0.1, circle.x, circle.y, circle.r);
  glow.addColorStop(0, withAlpha(colour, 0.1 + 0.16 * presence));
  glow.addColorStop(1, withAlpha(colour, 0.12 + 0.34 * presence));
  pen.globalAlpha = 1;
  pen.fillStyle = glow;
  outline(pen, circle, level * 0.035, seconds);
  pen.fill();
  pen.globalAlpha = 0.25 + 0.75 * presence;
  pen.lineWidth = 2;
  pen.stroke();
  pen.globalAlpha = 1;
}

/**
 * Trace a circle that trembles with the voice.
 *
 * @param {CanvasRenderingContext2D} pen
 * @param {Circle} circle
 * @param {number} wobble share of the radius
 * @param {number} seconds
 */
function outline(pen, circle, wobble, seconds) {
  pen.beginPath();
  for (let i = 0; i <= CORNERS; i += 1) {
    const angle = (2 * Math.PI * i) / CORNERS;
    const wave = Math.sin(3 * angle + 2.1 * seconds) + 0.6 * Math.sin(5 * angle - 3.3 * seconds) + 0.3 * Math.sin(9 * angle + 5 * seconds);
    const r = circle.r * (1 + wobble * wave);
    pen.lineTo(circle.x + r * Math.cos(angle), circle.y + r * Math.sin(angle));
  }
  pen.closePath();
}

/**
 * What is left of a voice that was cut off.
 *
 * @param {CanvasRenderingContext2D} pen
 * @param {Circle} circle
 * @param {string} colour
 */
function brokenRing(pen, circle, colour) {
  pen.strokeStyle = colour;
  pen.lineWidth = 2.5;
  pen.setLineDash([3, 9]);
  pen.lineCap = "round";
  pen.beginPath();
  pen.arc(circle.x, circle.y, circle.r, 0, 2 * Math.PI);
  pen.stroke();
  pen.setLineDash([]);
}

/**
 * @param {HTMLElement} element
 * @param {Circle} circle
 * @param {number} share of the radius that it fills
 */
function place(element, circle, share) {
  const r = circle.r * share;
  const size = `${(2 * r).toFixed(1)}px`;
  const move = `translate(${(circle.x - r).toFixed(1)}px, ${(circle.y - r).toFixed(1)}px)`;
  // Writing a style costs a layout even if nothing changes.
  if (element.style.transform === move && element.style.width === size) return;
  element.style.width = size;
  element.style.height = size;
  element.style.transform = move;
}

/**
 * @param {string} colour #rrggbb
 * @param {number} alpha 0..1
 * @returns {string}
 */
export function withAlpha(colour, alpha) {
  const byte = Math.round(Math.max(0, Math.min(1, alpha)) * 255);
  return `${colour}${byte.toString(16).padStart(2, "0")}`;
}
