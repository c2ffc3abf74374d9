import assert from "node:assert/strict";
import { afterEach, beforeEach, test } from "node:test";

import { TrackReader } from "../track_reader.js";

/** @import { CaptureReport } from "../capture.js" */

/** What Chromium hands out: `MediaStreamTrackProcessor`, whose pieces wait until somebody reads them. */
class FakeProcessor {
  /** @param {{ track: { pieces: FakeSound[] }, maxBufferSize: number }} options */
  constructor({ track, maxBufferSize }) {
    FakeProcessor.made.push(this);
    this.cancelled = false;
    const waiting = track.pieces.slice(-maxBufferSize);
    this.readable = new ReadableStream({
      pull: (controller) => {
        const piece = waiting.shift();
        if (piece) controller.enqueue(piece);
        else controller.close();
      },
      cancel: () => { this.cancelled = true; },
    }, { highWaterMark: 0 });
  }

  /** @type {FakeProcessor[]} */
  static made = [];
}

class FakeSound {
  /**
   * @param {number[]} levels one constant level a channel
   * @param {number} sampleRate
   */
  constructor(levels, sampleRate = 48_000) {
    this.levels = levels;
    this.sampleRate = sampleRate;
    this.numberOfChannels = levels.length;
    this.numberOfFrames = sampleRate / 100;
    this.closed = false;
  }

  /**
   * @param {Float32Array} into
   * @param {{ planeIndex: number, format: string }} options
   */
  copyTo(into, { planeIndex, format }) {
    assert.equal(format, "f32-planar");
    into.fill(this.levels[planeIndex] ?? 0);
  }

  close() {
    this.closed = true;
  }
}

/** @param {FakeSound[]} pieces */
function streamOf(pieces) {
  return /** @type {MediaStream} */ (/** @type {unknown} */ ({ getAudioTracks: () => [{ pieces }] }));
}

/** @param {number} count */
function seconds(count) {
  return Array.from({ length: count * 100 }, (_, i) => new FakeSound([0.1 + (i % 7) / 100]));
}

function listening() {
  /** @type {CaptureReport[]} */
  const reports = [];
  return { reports, reader: new TrackReader((report) => reports.push(report)) };
}

async function settled() {
  for (let i = 0; i < 5; i += 1) await new Promise((go) => setTimeout(go, 1));
}

/** @param {CaptureReport[]} reports */
function samplesIn(reports) {
  return reports.reduce((sum, report) => sum + (report.type === "chunk" ? report.samples.length : 0), 0);
}

const scope = /** @type {{ MediaStreamTrackProcessor?: unknown }} */ (globalThis);

beforeEach(() => {
  FakeProcessor.made = [];
  scope.MediaStreamTrackProcessor = FakeProcessor;
});

afterEach(() => {
  delete scope.MediaStreamTrackProcessor;
});

test("a browser without it says so", () => {
  assert.equal(TrackReader.available, true);
  delete scope.MediaStreamTrackProcessor;
  assert.equal(TrackReader.available, false);
});

test("what waited while the page was busy is all there, and given back", async () => {
  const { reports, reader } = listening();
  reader.order({ samples: true });
  const pieces = seconds(2);
  reader.listenTo(streamOf(pieces));
  await settled();
  assert.ok(samplesIn(reports) >= 2 * 24_000 - 2 * 960);
  assert.ok(pieces.every((piece) => piece.closed));
});

test("samples are wanted from the moment that says so, also before the first sound", async () => {
  const { reports, reader } = listening();
  reader.listenTo(streamOf(seconds(1)));
  await settled();
  assert.equal(samplesIn(reports), 0);
  assert.ok(reports.some((report) => report.type === "levels"));
  reader.order({ samples: true });
  reader.listenTo(streamOf(seconds(1)));
  await settled();
  assert.ok(samplesIn(reports) > 20_000);
});

test("another microphone takes the place of the first, at its own rate", async () => {
  const { reports, reader } = listening();
  reader.order({ samples: true });
  reader.listenTo(streamOf(seconds(1)));
  reader.listenTo(streamOf(Array.from({ length: 100 }, () => new FakeSound([0.2, 0.4], 16_000))));
  await settled();
  assert.equal(FakeProcessor.made[0]?.cancelled, true);
  const loud = reports.flatMap((report) => (report.type === "levels" ? report.rms : [])).slice(-10);
  for (const rms of loud) assert.ok(Math.abs(rms - 0.3) < 0.01);
});

test("closed, or without a track, it reads nothing", async () => {
  const { reports, reader } = listening();
  reader.listenTo(streamOf(seconds(1)));
  reader.close();
  reader.listenTo(null);
  await settled();
  assert.equal(FakeProcessor.made[0]?.cancelled, true);
  assert.deepEqual(reports, []);
});
