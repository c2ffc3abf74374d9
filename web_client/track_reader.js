/**
 * Reads one audio track piece by piece, where the browser can: nothing is lost while the computer is busy.
 *
 * An audio graph that stalls for some ms never catches up; what its input has queued by then stays queued, and beyond
 * 100 ms Chromium drops sound, 40 ms of a word at a time.
 *
 * @import { CaptureOrder, CaptureReport } from "./capture.js"
 */

import { Capture } from "./capture.js";

/** Pieces of 10 ms that may wait for a page that is busy: 2 s. Then the oldest go. */
const MAX_WAITING = 200;

export class TrackReader {
  /** @returns {boolean} whether this browser has what it takes */
  static get available() {
    return "MediaStreamTrackProcessor" in globalThis;
  }

  /** @param {(report: CaptureReport) => void} report */
  constructor(report) {
    this.report = report;
    /** @type {CaptureOrder} */
    this.wanted = { samples: false };
    /** @type {Capture | null} */
    this.capture = null;
    /** @type {ReadableStreamDefaultReader<AudioData> | null} */
    this.reader = null;
  }

  /** @param {CaptureOrder} order */
  order(order) {
    this.wanted = order;
    this.capture?.obey(order);
  }

  /** @param {MediaStream | null} stream */
  listenTo(stream) {
    this.close();
    const track = stream?.getAudioTracks()[0];
    if (!track) return;
    const processor = new MediaStreamTrackProcessor({ track, maxBufferSize: MAX_WAITING });
    const reader = processor.readable.getReader();
    this.reader = reader;
    void this.read(reader);
  }

  close() {
    const reader = this.reader;
    this.reader = null;
    // A track that has ended has taken its stream with it.
    reader?.cancel().catch(() => {});
  }

  /** @param {ReadableStreamDefaultReader<AudioData>} reader */
  async read(reader) {
    for (;;) {
      const { done, value } = await reader.read().catch(() => ({ done: true, value: undefined }));
      if (done || !value) return;
      if (reader === this.reader) this.hear(value);
      value.close();
    }
  }

  /** @param {AudioData} sound */
  hear(sound) {
    if (this.capture?.rateHz !== sound.sampleRate) {
      this.capture = new Capture(sound.sampleRate, this.report);
      this.capture.obey(this.wanted);
    }
    const channels = Array.from({ length: sound.numberOfChannels }, (_, planeIndex) => {
      const samples = new Float32Array(sound.numberOfFrames);
      sound.copyTo(samples, { planeIndex, format: "f32-planar" });
      return samples;
    });
    this.capture.push(channels);
  }
}
