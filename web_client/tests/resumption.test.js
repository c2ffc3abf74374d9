import assert from "node:assert/strict";
import { test } from "node:test";

import { Resumption } from "../resumption.js";

const created = JSON.stringify({
  type: "session.created",
  server_event_seq: 1,
  resume_token: "t1",
  session: { id: "sess_1" },
});

test("nothing can be resumed before the server has said how", () => {
  const resumption = new Resumption();
  assert.equal(resumption.possible, false);
  resumption.received(JSON.stringify({ type: "session.created", session: { id: "sess_1" } }));
  assert.equal(resumption.possible, false);
  resumption.received(created);
  assert.equal(resumption.possible, true);
});

test("the request names the newest token and event", () => {
  const resumption = new Resumption();
  resumption.received(created);
  resumption.received(JSON.stringify({ type: "response.output_audio.delta", delta: "", server_event_seq: 9 }));
  const resumed = { type: "session.resumed", resume_token: "t2", session: { id: "sess_1" }, client_events_received: 3 };
  assert.deepEqual(resumption.received(JSON.stringify(resumed)), { type: "session.resumed", nArrived: 3 });
  assert.deepEqual(JSON.parse(resumption.request()), {
    type: "session.resume",
    session_id: "sess_1",
    resume_token: "t2",
    last_received_server_event_seq: 9,
  });
});

test("what did not arrive is sent again, once and in its order", () => {
  const resumption = new Resumption();
  for (const message of ["a", "b", "c"]) resumption.sent(message);
  assert.deepEqual(resumption.missing(3), []);
  assert.deepEqual(resumption.missing(1), ["b", "c"]);
  assert.deepEqual(resumption.missing(0), ["a", "b", "c"]);
});

test("what is kept is bounded", () => {
  const resumption = new Resumption();
  for (let n = 0; n < 2000; n++) resumption.sent(String(n));
  assert.equal(resumption.missing(0).length, 1500);
  assert.equal(resumption.missing(1999)[0], "1999");
});

test("a call says how far the sound of its track came, if any came", () => {
  const resumption = new Resumption();
  resumption.received(created);
  assert.equal(resumption.asked(1234.5).audio_received_ms, 1234.5);
  assert.ok(!("audio_received_ms" in resumption.asked(null)));
});
