import assert from "node:assert/strict";
import test from "node:test";

import { EventLog } from "../probe.js";

test("the log keeps the newest events, without sound", () => {
  const log = new EventLog();
  log.add(0, { type: "response.output_audio.delta" });
  for (let i = 0; i < 600; i += 1) log.add(i, { type: "other" });
  assert.equal(log.entries.length, 500);
  assert.equal(log.entries.at(-1)?.t, 599);
});
