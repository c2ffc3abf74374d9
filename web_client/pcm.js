/**
 * Sample formats: float and 16-bit samples, base64, loudness.
 *
 * Pure, and free of browser interfaces except `btoa`/`atob`, so that worklets and tests can use it.
 */

/** Largest 16-bit step; samples are scaled by it both ways so that encoding and decoding are inverse. */
const FULL_SCALE = 32767;

/** `String.fromCharCode` takes its bytes as arguments, and engines limit how many; this is far below every limit. */
const BYTES_PER_CALL = 8192;

/**
 * @param {Float32Array} samples −1..1; what lies beyond is clipped
 * @returns {Int16Array}
 */
export function toInt16(samples) {
  const out = new Int16Array(samples.length);
  for (let i = 0; i < samples.length; i += 1) {
    out[i] = Math.round(Math.max(-1, Math.min(1, samples[i] ?? 0)) * FULL_SCALE);
  }
  return out;
}

/**
 * @param {Int16Array} samples
 * @returns {Float32Array}
 */
export function toFloat(samples) {
  const out = new Float32Array(samples.length);
  for (let i = 0; i < samples.length; i += 1) out[i] = (samples[i] ?? 0) / FULL_SCALE;
  return out;
}

/**
 * @param {Int16Array} samples
 * @returns {string} base64 of the little-endian bytes
 */
export function encodeBase64(samples) {
  const bytes = new Uint8Array(samples.length * 2);
  const view = new DataView(bytes.buffer);
  for (let i = 0; i < samples.length; i += 1) view.setInt16(i * 2, samples[i] ?? 0, true);
  let binary = "";
  for (let at = 0; at < bytes.length; at += BYTES_PER_CALL) {
    binary += String.fromCharCode(...bytes.subarray(at, at + BYTES_PER_CALL));
  }
  return btoa(binary);
}

/**
 * @param {string} base64
 * @returns {Int16Array} whole samples only: a trailing odd byte is dropped
 */
export function decodeBase64(base64) {
  const binary = atob(base64);
  const bytes = new Uint8Array(binary.length & ~1);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
  const view = new DataView(bytes.buffer);
  const out = new Int16Array(bytes.length / 2);
  for (let i = 0; i < out.length; i += 1) out[i] = view.getInt16(i * 2, true);
  return out;
}

/**
 * @param {Float32Array} samples
 * @returns {number} root mean square, 0..1
 */
export function rms(samples) {
  if (samples.length === 0) return 0;
  let sum = 0;
  for (const sample of samples) sum += sample * sample;
  return Math.sqrt(sum / samples.length);
}
