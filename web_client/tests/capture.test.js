import assert from "node:assert/strict";
import { test } from "node:test";

import { Capture } from "../capture.js";
import { WIRE_RATE_HZ } from "../wire.js";

/** @import { CaptureReport } from "../capture.js" */

const RATE_HZ = 48_000;

/**
 * @param {number} seconds
 * @param {number} level
 */
function tone(seconds, level) {
  return Float32Array.from({ length: RATE_HZ * seconds }, (_, i) => level * Math.SQRT2 * Math.sin((2 * Math.PI * 500 * i) / RATE_HZ));
}

/**
 * @param {Float32Array[]} channels
 * @param {number} piece
 * @param {{ samples: boolean }} order
 */
function captured(channels, piece, order) {
  /** @type {CaptureReport[]} */
  const reports = [];
  const capture = new Capture(RATE_HZ, (report) => reports.push(report));
  capture.obey(order);
  const length = channels[0]?.length ?? 0;
  for (let at = 0; at < length; at += piece) capture.push(channels.map((channel) => channel.subarray(at, at + piece)));
  return reports;
}

/** @param {CaptureReport[]} reports */
function levels(reports) {
  return reports.flatMap((report) => (report.type === "levels" ? report.rms : []));
}

/** @param {CaptureReport[]} reports */
function samples(reports) {
  return reports.flatMap((report) => (report.type === "chunk" ? [...report.samples] : []));
}

test("every 20 ms have a loudness, in whatever pieces the sound comes", () => {
  for (const piece of [128, 441, 480, 4800]) {
    const found = levels(captured([tone(1, 0.25)], piece, { samples: false }));
    assert.equal(found.length, 50);
    for (const rms of found) assert.ok(Math.abs(rms - 0.25) < 0.01);
  }
});

test("samples are given only when they are asked for, 40 ms at a time", () => {
  assert.deepEqual(samples(captured([tone(0.5, 0.2)], 480, { samples: false })), []);
  const reports = captured([tone(0.5, 0.2)], 480, { samples: true });
  const chunks = reports.flatMap((report) => (report.type === "chunk" ? [report.samples.length] : []));
  assert.ok(chunks.length >= 11);
  for (const length of chunks) assert.equal(length, (WIRE_RATE_HZ * 40) / 1000);
});

test("the pieces in which sound comes change nothing of what is sent", () => {
  const whole = samples(captured([tone(0.5, 0.2)], RATE_HZ, { samples: true }));
  assert.deepEqual(samples(captured([tone(0.5, 0.2)], 128, { samples: true })), whole);
});

test("of two channels the mean is taken", () => {
  const loud = tone(0.2, 0.4);
  const both = levels(captured([loud, new Float32Array(loud.length)], 480, { samples: false }));
  for (const rms of both) assert.ok(Math.abs(rms - 0.2) < 0.01);
});

test("nothing connected gives nothing", () => {
  assert.deepEqual(captured([], 480, { samples: true }), []);
});
