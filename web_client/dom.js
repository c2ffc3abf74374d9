/** Looking elements up, with their types checked once at the start. */

/**
 * @template {Element} Kind
 * @param {string} selector
 * @param {new () => Kind} kind
 * @param {ParentNode} [within]
 * @returns {Kind}
 */
export function find(selector, kind, within = document) {
  const element = within.querySelector(selector);
  if (!(element instanceof kind)) throw new TypeError(`the page has no ${kind.name} ${selector}`);
  return element;
}

/**
 * Set a text only where it changed: live regions speak on every write.
 *
 * @param {Element} element
 * @param {string} text
 */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");

/** @returns {boolean} whether the person asked for less movement */
export function reducedMotion() {
  return calm.matches;
}

/**
 * Fit a canvas's pixels to its size on the screen.
 *
 * @param {HTMLCanvasElement} canvas
 * @returns {{ pen: CanvasRenderingContext2D, width_px: number, height_px: number } | null} sizes in CSS pixels; the
 *   pen draws in them. Null while the canvas is not shown.
 */
export function sizedPen(canvas) {
  const { clientWidth, clientHeight } = canvas;
  const pen = canvas.getContext("2d");
  if (!pen || clientWidth === 0 || clientHeight === 0) return null;
  const ratio = window.devicePixelRatio || 1;
  const width = Math.round(clientWidth * ratio);
  const height = Math.round(clientHeight * ratio);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, clientWidth, clientHeight);
  return { pen, width_px: clientWidth, height_px: clientHeight };
}

/**
 * The colours of the style sheet, for canvases; read again when the theme changes.
 *
 * @typedef {Record<"ink" | "ink-soft" | "line" | "line-strong" | "card" | "you" | "you-soft" | "model" | "model-soft"
 *                  | "cut" | "warn", string>} Palette
 * @returns {Palette}
 */
export function readPalette() {
  const style = getComputedStyle(document.documentElement);
  const names = ["ink", "ink-soft", "line", "line-strong", "card", "you", "you-soft", "model", "model-soft", "cut", "warn"];
  return /** @type {Palette} */ (Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()])));
}
