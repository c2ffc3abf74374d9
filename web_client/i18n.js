/**
 * The page's languages: choosing one, looking texts up, and putting them into the document.
 *
 * In the document, `data-text="key"` fills an element's text and `data-label="key"` its accessible name and tooltip.
 *
 * @import { Language } from "./types.js"
 * @typedef {keyof typeof ENGLISH} TextKey
 */

import { ENGLISH } from "./texts_en.js";
import { CHINESE } from "./texts_zh.js";

/** @type {Record<Language, Record<TextKey, string>>} */
const TEXTS = { en: ENGLISH, zh: CHINESE };

/** What `<html lang>` says: the script matters for the choice of glyphs. */
const TAGS = { en: "en", zh: "zh-Hans" };

/**
 * @param {readonly string[]} wanted BCP 47 tags, best first
 * @returns {Language} English where neither is wanted
 */
export function bestLanguage(wanted) {
  for (const tag of wanted) {
    const primary = tag.toLowerCase().split("-")[0];
    if (primary === "zh" || primary === "en") return primary;
  }
  return "en";
}

/**
 * @param {Language} language
 * @param {TextKey} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
export function translate(language, key, values = {}) {
  return TEXTS[language][key].replace(/\{(\w+)\}/g, (whole, name) => String(values[name] ?? whole));
}

/**
 * @param {string} key
 * @returns {key is TextKey}
 */
export function isTextKey(key) {
  return Object.hasOwn(ENGLISH, key);
}

/**
 * Put a language's texts into the document.
 *
 * @param {Document} page
 * @param {Language} language
 */
export function applyLanguage(page, language) {
  page.documentElement.lang = TAGS[language];
  page.title = translate(language, "title");
  for (const element of page.querySelectorAll("[data-text]")) {
    const key = element.getAttribute("data-text") ?? "";
    if (isTextKey(key)) element.textContent = translate(language, key);
  }
  for (const element of page.querySelectorAll("[data-label]")) {
    const key = element.getAttribute("data-label") ?? "";
    if (!isTextKey(key)) continue;
    element.setAttribute("aria-label", translate(language, key));
    if (element instanceof HTMLButtonElement) element.title = translate(language, key);
  }
}
