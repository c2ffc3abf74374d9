/**
 * A streaming sample-rate converter: microphones run at 44.1 or 48 kHz, the wire at 24.
 *
 * A windowed sinc, laid out as one row of weights for each place between two input samples that an output sample can
 * have; positions are whole numbers, so nothing drifts. Pure; used inside an audio worklet.
 */

/** Zero crossings of the sinc on either side. 16 with a Hann window: flat to 0.9 of Nyquist, aliases below −60 dB. */
const CROSSINGS = 16;

/** Pass-band edge as a share of the lower Nyquist frequency, leaving room for the filter's slope. */
const ROLL_OFF = 0.94;

/**
 * @param {number} a
 * @param {number} b
 * @returns {number} greatest common divisor
 */
function commonDivisor(a, b) {
  return b === 0 ? a : commonDivisor(b, a % b);
}

/**
 * @param {number} x in zero crossings from the centre
 * @returns {number} Hann-windowed sinc
 */
function windowedSinc(x) {
  if (Math.abs(x) >= CROSSINGS) return 0;
  const window = 0.5 + 0.5 * Math.cos((Math.PI * x) / CROSSINGS);
  return x === 0 ? 1 : (window * Math.sin(Math.PI * x)) / (Math.PI * x);
}

export class StreamResampler {
  /**
   * @param {number} fromHz
   * @param {number} toHz
   */
  constructor(fromHz, toHz) {
    const divisor = commonDivisor(fromHz, toHz);
    /** Output samples come at multiples of `down / up` input samples. */
    this.up = toHz / divisor;
    this.down = fromHz / divisor;
    const cutoff = Math.min(1, toHz / fromHz) * ROLL_OFF;
    /** Input samples on either side that one output sample depends on. */
    this.reach = Math.ceil(CROSSINGS / cutoff);
    /** @type {Float32Array[]} weights of the samples around, by how far behind the one at `index` it lies, in `1 / up` */
    this.rows = Array.from({ length: this.up }, (_, phase) =>
      Float32Array.from({ length: 2 * this.reach }, (_, tap) => {
        const distance = phase / this.up + this.reach - 1 - tap;
        return cutoff * windowedSinc(distance * cutoff);
      }),
    );
    this.pending = new Float32Array(this.reach);
    /** Where the next output sample lies: an input sample of `pending`, and how far behind it. */
    this.index = this.reach;
    this.phase = 0;
  }

  /**
   * Convert the next piece of the stream.
   *
   * @param {Float32Array} input
   * @returns {Float32Array} the output samples that are now determined; the stream's tail stays inside
   */
  push(input) {
    if (this.up === this.down) return input.slice();
    const samples = new Float32Array(this.pending.length + input.length);
    samples.set(this.pending);
    samples.set(input, this.pending.length);
    const room = samples.length - this.reach - this.index;
    const count = Math.max(0, Math.ceil((room * this.up - this.phase) / this.down));
    const out = new Float32Array(count);
    for (let i = 0; i < count; i += 1) {
      out[i] = this.sampleAt(samples, this.index - this.reach + 1, this.rows[this.phase]);
      const next = this.phase + this.down;
      this.index += Math.floor(next / this.up);
      this.phase = next % this.up;
    }
    const drop = Math.min(samples.length, this.index - this.reach);
    this.pending = samples.slice(drop);
    this.index -= drop;
    return out;
  }

  /**
   * @param {Float32Array} samples
   * @param {number} first
   * @param {Float32Array | undefined} row
   * @returns {number}
   */
  sampleAt(samples, first, row) {
    let sum = 0;
    if (row) for (let tap = 0; tap < row.length; tap += 1) sum += (row[tap] ?? 0) * (samples[first + tap] ?? 0);
    return sum;
  }
}
