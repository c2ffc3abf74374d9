/**
 * A streaming sample-rate converter: microphones run at 44.1 or 48 kHz, the wire at 24.
 *
 * Windowed-sinc interpolation, evaluated at the output's times. Pure; used inside an audio worklet.
 */

/** Zero crossings of the sinc on either side. 16 with a Hann window: pass-band flat to 0.9 of Nyquist, aliases below −60 dB. */
const CROSSINGS = 16;

/** Table entries per zero crossing; linear interpolation between them errs by less than 16-bit resolution. */
const STEPS = 512;

/** Pass-band edge as a share of the lower Nyquist frequency, leaving room for the filter's slope. */
const ROLL_OFF = 0.94;

/** Two ways to the same time may differ by this much, in output samples. */
const ROUNDING = 1e-6;

/** @type {Float32Array | null} */
let kernel = null;

/** @returns {Float32Array} Hann-windowed sinc, from its centre outwards */
function kernelTable() {
  if (kernel) return kernel;
  kernel = new Float32Array(CROSSINGS * STEPS + 2);
  for (let i = 0; i < kernel.length; i += 1) {
    const x = i / STEPS;
    const window = x < CROSSINGS ? 0.5 + 0.5 * Math.cos((Math.PI * x) / CROSSINGS) : 0;
    kernel[i] = window * (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
  }
  return kernel;
}

export class StreamResampler {
  /**
   * @param {number} fromHz
   * @param {number} toHz
   */
  constructor(fromHz, toHz) {
    this.step = fromHz / toHz;
    /** Low-pass at the lower of the two Nyquist frequencies, relative to the input rate. */
    this.cutoff = Math.min(1, toHz / fromHz) * (fromHz === toHz ? 1 : ROLL_OFF);
    /** Input samples on either side that one output sample depends on. */
    this.reach = Math.ceil(CROSSINGS / this.cutoff);
    this.pending = new Float32Array(this.reach);
    /** Time of the next output sample, in input samples from the start of `pending`. */
    this.next = this.reach;
    this.same = fromHz === toHz;
  }

  /**
   * Convert the next piece of the stream.
   *
   * @param {Float32Array} input
   * @returns {Float32Array} the output samples that are now determined; the stream's tail stays inside
   */
  push(input) {
    if (this.same) return input.slice();
    const samples = new Float32Array(this.pending.length + input.length);
    samples.set(this.pending);
    samples.set(input, this.pending.length);
    const count = Math.max(0, Math.ceil((samples.length - this.reach - this.next) / this.step - ROUNDING));
    const out = new Float32Array(count);
    for (let i = 0; i < count; i += 1) out[i] = this.sampleAt(samples, this.next + i * this.step);
    const after = this.next + count * this.step;
    const drop = Math.max(0, Math.min(samples.length, Math.floor(after) - this.reach));
    this.pending = samples.slice(drop);
    this.next = after - drop;
    return out;
  }

  /**
   * @param {Float32Array} samples
   * @param {number} time in samples
   * @returns {number}
   */
  sampleAt(samples, time) {
    const table = kernelTable();
    const first = Math.max(0, Math.ceil(time - this.reach));
    const last = Math.min(samples.length - 1, Math.floor(time + this.reach));
    let sum = 0;
    for (let i = first; i <= last; i += 1) {
      const position = Math.abs(time - i) * this.cutoff * STEPS;
      const index = Math.floor(position);
      const low = table[index] ?? 0;
      const high = table[index + 1] ?? 0;
      sum += (samples[i] ?? 0) * (low + (high - low) * (position - index));
    }
    return sum * this.cutoff;
  }
}
