import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import test from "node:test";

import { bestLanguage, translate } from "../i18n.js";
import { ENGLISH } from "../texts_en.js";
import { CHINESE } from "../texts_zh.js";

const ROOT = new URL("../", import.meta.url);
const PAGE = readFileSync(new URL("index.html", ROOT), "utf8");
const SOURCES = readdirSync(ROOT)
  .filter((name) => name.endsWith(".js") && !name.startsWith("texts_"))
  .map((name) => readFileSync(new URL(name, ROOT), "utf8"))
  .join("\n");

/** @param {string} text */
const placeholders = (text) => [...text.matchAll(/\{(\w+)\}/g)].map((match) => match[1]).sort();

test("both languages say the same things", () => {
  assert.deepEqual(Object.keys(CHINESE), Object.keys(ENGLISH));
  for (const [key, text] of Object.entries(ENGLISH)) {
    const chinese = CHINESE[/** @type {keyof typeof ENGLISH} */ (key)];
    assert.deepEqual(placeholders(chinese), placeholders(text), key);
    assert.notEqual(chinese, "");
  }
});

test("every text that the page names exists", () => {
  const named = [...PAGE.matchAll(/data-(?:text|label)="([^"]+)"/g)].map((match) => match[1] ?? "");
  assert.ok(named.length > 40);
  assert.deepEqual(named.filter((key) => !Object.hasOwn(ENGLISH, key)), []);
});

test("every text is used", () => {
  const families = [...SOURCES.matchAll(/`([\w.]+)\.\$\{/g)].map((match) => `${match[1]}.`);
  const unused = Object.keys(ENGLISH).filter((key) => {
    if (PAGE.includes(`"${key}"`) || SOURCES.includes(`"${key}"`)) return false;
    return !families.some((family) => key.startsWith(family));
  });
  assert.deepEqual(unused, []);
});

test("the browser's wishes decide, English where neither is wanted", () => {
  assert.equal(bestLanguage(["zh-TW", "en"]), "zh");
  assert.equal(bestLanguage(["fr", "zh-CN", "en"]), "zh");
  assert.equal(bestLanguage(["en-GB", "zh"]), "en");
  assert.equal(bestLanguage(["fr"]), "en");
  assert.equal(bestLanguage([]), "en");
});

test("values are filled in", () => {
  assert.equal(translate("en", "vital.seconds", { seconds: "0.43" }), "0.43 s");
  assert.equal(translate("zh", "vital.seconds", { seconds: "0.43" }), "0.43 秒");
});
