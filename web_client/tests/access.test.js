import assert from "node:assert/strict";
import test from "node:test";

import { authorization, lossOfClose, refusal } from "../access.js";

test("refusals say what to do", async () => {
  /** @param {number} status @param {Record<string, string>} [headers] */
  const read = async (status, headers) => {
    const body = JSON.stringify({ error: { message: "because" } });
    const { reason, detail, retry_after_s } = (await refusal(new Response(body, { status, headers: headers ?? {} }))).loss;
    return [reason, detail, retry_after_s];
  };
  assert.deepEqual(await read(401), ["unauthorized", "because", 0]);
  assert.deepEqual(await read(503, { "Retry-After": "7" }), ["full", "because", 7]);
  assert.deepEqual(await read(502), ["network", "because", 0]);
  assert.deepEqual(await read(400), ["refused", "because", 0]);
});

test("a refusal without a readable body is a refusal all the same", async () => {
  assert.equal((await refusal(new Response("<html>", { status: 401 }))).loss.reason, "unauthorized");
});

test("close codes have reasons", () => {
  const reasons = [1000, 1001, 1003, 1006, 1008, 1009, 1011, 1012, 1013].map((code) => lossOfClose(code, "").reason);
  assert.deepEqual(reasons, ["goodbye", "limit", "refused", "network", "unauthorized", "refused", "network", "shutdown", "full"]);
});

test("no key, no header", () => {
  assert.deepEqual(authorization(""), {});
  assert.deepEqual(authorization("k"), { Authorization: "Bearer k" });
});
