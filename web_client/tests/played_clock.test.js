import assert from "node:assert/strict";
import test from "node:test";

import { PlayedClock } from "../played_clock.js";

test("time runs from the start of a response, less the jitter buffer's delay", () => {
  const clock = new PlayedClock();
  clock.delayMs = 60;
  clock.start("r", 1000);
  assert.equal(clock.playedMs(1030), 0);
  assert.equal(clock.playedMs(1560), 500);
});

test("the server's word counts where it differs by more than the message's jitter", () => {
  const clock = new PlayedClock();
  clock.start("r", 0);
  clock.correct("r", 1010, 1000);
  assert.equal(clock.playedMs(2000), 2000);
  clock.correct("r", 500, 1000);
  assert.equal(clock.playedMs(2000), 1500);
});

test("news of another response are ignored", () => {
  const clock = new PlayedClock();
  clock.start("new", 0);
  clock.correct("old", 9000, 100);
  assert.equal(clock.playedMs(100), 100);
});

test("a stopped clock stands still", () => {
  const clock = new PlayedClock();
  clock.start("r", 0);
  clock.stop(700);
  assert.equal(clock.playedMs(5000), 700);
});

test("while nothing gets through the clock stands still, and then goes on from where the server was", () => {
  const clock = new PlayedClock();
  clock.delayMs = 100;
  clock.start("r", 0);
  clock.hold(1000);
  clock.hold(3000);
  assert.equal(clock.playedMs(6000), 900);
  clock.go(6000);
  assert.equal(clock.playedMs(6500), 1400);
  clock.stop(6500);
  clock.go(9000);
  assert.equal(clock.playedMs(9000), 1400, "what is over does not go on");
});
