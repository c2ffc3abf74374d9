/**
 * How long the model took to answer, measured where it matters: from the end of the person's speech to the first
 * audible sound of the model, both as this device hears them.
 *
 * Pure: loudness of 20 ms slices and their times in, measurements out.
 *
 * @typedef {{ endedAtMs: number, heardAtMs: number, latencyMs: number, typed: boolean }} Latency
 */

/** Length of the slices that loudness is measured over. */
const SLICE_MS = 20;

/** Below this the model's slice counts as silence: −54 dB, under the noise floor of a quiet laptop loudspeaker. */
const MODEL_AUDIBLE_RMS = 0.002;

/** The person's slice counts as voice at this multiple of the noise floor (12 dB) ... */
const VOICE_OVER_NOISE = 4;

/** ... and never below this (−46 dB), so that a digitally silent microphone does not make a whisper of noise a voice. */
const VOICE_MIN_RMS = 0.005;

/** Voiced sound that makes an utterance; a click is shorter. */
const UTTERANCE_MIN_MS = 120;

/** Longer silence between voiced slices makes two utterances of them. */
const UTTERANCE_GAP_MS = 400;

/** The server may take its time to tell an interruption from an "mm-hm": its word may come this much after the voice. */
const CONFIRMED_WITHIN_MS = 1500;

/** Silence of the model after which its next sound may be a new answer and not a pause between words. */
const MODEL_PAUSE_MS = 600;

/** The server's word that an answer starts may come this much after its first sound, for they travel apart. */
const EARLY_SOUND_MS = 400;

/** An answer later than this belongs to something else. */
const ANSWER_LIMIT_MS = 15_000;

/** How fast the noise floor follows: up slowly, so that speech does not raise it; down at once. Per slice of 20 ms. */
const NOISE_RISE = 1.01;

/** Measurements kept; the oldest goes. */
const KEPT = 100;

export class LatencyMeter {
  constructor() {
    this.noise = VOICE_MIN_RMS / VOICE_OVER_NOISE;
    this.voicedMs = 0;
    this.lastVoiceAtMs = Number.NEGATIVE_INFINITY;
    /** The server has taken the current utterance for one. */
    this.confirmed = false;
    /** @type {{ atMs: number, typed: boolean } | null} the end of what awaits an answer */
    this.waiting = null;
    this.modelHeardAtMs = Number.NEGATIVE_INFINITY;
    /** First sound after a pause of the model that no answer has claimed. */
    this.onsetAtMs = Number.NEGATIVE_INFINITY;
    /** An answer has been announced and not been heard. */
    this.announced = false;
    /** @type {Latency[]} newest last, bounded by KEPT */
    this.measured = [];
  }

  /**
   * @param {number} rms of the microphone's slice
   * @param {number} atMs its end
   * @param {boolean} confirmed whether the server takes the person to be speaking: loudness alone may be noise, the
   *   model's own echo, or an "mm-hm" that asks for no answer
   */
  user(rms, atMs, confirmed) {
    this.noise = Math.max(1e-5, Math.min(rms, this.noise * NOISE_RISE));
    const fresh = atMs - this.lastVoiceAtMs > UTTERANCE_GAP_MS;
    if (rms >= Math.max(VOICE_MIN_RMS, this.noise * VOICE_OVER_NOISE)) {
      this.voicedMs = fresh ? SLICE_MS : this.voicedMs + SLICE_MS;
      this.confirmed = confirmed || (this.confirmed && !fresh);
      this.lastVoiceAtMs = atMs;
    } else if (confirmed && atMs - this.lastVoiceAtMs < CONFIRMED_WITHIN_MS) {
      this.confirmed = true;
    }
    if (this.confirmed && this.voicedMs >= UTTERANCE_MIN_MS) {
      this.waiting = { atMs: this.lastVoiceAtMs, typed: false };
    }
  }

  /** @param {number} atMs when the person sent a typed message */
  typed(atMs) {
    this.waiting = { atMs, typed: true };
    this.voicedMs = 0;
  }

  /**
   * Take note that a new answer starts to be played.
   *
   * @param {number} atMs
   * @returns {Latency | null} a new measurement, if its first sound was faster than this news
   */
  answerBegins(atMs) {
    this.announced = atMs - this.onsetAtMs >= EARLY_SOUND_MS;
    return this.announced ? null : this.measure(this.onsetAtMs);
  }

  /**
   * @param {number} rms of the model's slice as heard
   * @param {number} atMs its end
   * @returns {Latency | null} a new measurement, on the slice that completes it
   */
  model(rms, atMs) {
    if (rms < MODEL_AUDIBLE_RMS) return null;
    if (atMs - this.modelHeardAtMs > MODEL_PAUSE_MS) this.onsetAtMs = atMs;
    this.modelHeardAtMs = atMs;
    if (!this.announced) return null;
    this.announced = false;
    return this.measure(atMs);
  }

  /**
   * @param {number} heardAtMs first audible sound of an answer
   * @returns {Latency | null}
   */
  measure(heardAtMs) {
    this.onsetAtMs = Number.NEGATIVE_INFINITY;
    const asked = this.waiting;
    this.waiting = null;
    this.voicedMs = 0;
    if (!asked) return null;
    const latencyMs = heardAtMs - asked.atMs;
    if (latencyMs <= 0 || latencyMs > ANSWER_LIMIT_MS) return null;
    const latency = { endedAtMs: asked.atMs, heardAtMs, latencyMs, typed: asked.typed };
    this.measured.push(latency);
    if (this.measured.length > KEPT) this.measured.shift();
    return latency;
  }

  /** @returns {Latency | null} */
  get last() {
    return this.measured.at(-1) ?? null;
  }
}
