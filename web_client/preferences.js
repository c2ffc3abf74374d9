/**
 * What the person chose, kept between visits in this browser only. The API key is kept for this tab alone.
 *
 * @import { Language, Policy, TransportKind } from "./types.js"
 * @typedef {object} Preferences
 * @property {TransportKind} transport
 * @property {Policy} policy
 * @property {Language | ""} language "": follow the browser
 * @property {string} microphone device id, "" for the default
 * @property {string} camera
 * @property {string} loudspeaker
 * @property {"stills" | "track"} cameraMode
 */

const STORE = "duplex.preferences";
const KEY_STORE = "duplex.api_key";

/** @type {Preferences} */
const DEFAULTS = {
  transport: "webrtc",
  policy: "guarded",
  language: "",
  microphone: "",
  camera: "",
  loudspeaker: "",
  cameraMode: "stills",
};

/** @type {{ [Name in keyof Preferences]?: readonly string[] }} */
const ALLOWED = {
  transport: ["webrtc", "websocket"],
  policy: ["guarded", "immediate", "model", "push_to_talk"],
  language: ["", "en", "zh"],
  cameraMode: ["stills", "track"],
};

/**
 * @param {string | null} stored
 * @returns {Preferences} defaults where something is missing or makes no sense
 */
export function readPreferences(stored) {
  let found;
  try {
    found = JSON.parse(stored ?? "{}");
  } catch {
    found = {};
  }
  /** @type {Record<string, string>} */
  const out = { ...DEFAULTS };
  for (const name of Object.keys(DEFAULTS)) {
    const value = found?.[name];
    const allowed = ALLOWED[/** @type {keyof Preferences} */ (name)];
    if (typeof value === "string" && (!allowed || allowed.includes(value))) out[name] = value;
  }
  return /** @type {Preferences} */ (/** @type {unknown} */ (out));
}

/**
 * Run something on a storage that the browser may refuse (private windows, blocked cookies).
 *
 * @template Result
 * @param {() => Result} use
 * @param {Result} otherwise
 * @returns {Result}
 */
function guarded(use, otherwise) {
  try {
    return use();
  } catch {
    return otherwise;
  }
}

/** @returns {Preferences} */
export function loadPreferences() {
  return readPreferences(guarded(() => localStorage.getItem(STORE), null));
}

/** @param {Preferences} preferences */
export function savePreferences(preferences) {
  guarded(() => localStorage.setItem(STORE, JSON.stringify(preferences)), undefined);
}

/** @returns {string} */
export function loadApiKey() {
  return guarded(() => sessionStorage.getItem(KEY_STORE), null) ?? "";
}

/** @param {string} key */
export function saveApiKey(key) {
  guarded(() => sessionStorage.setItem(KEY_STORE, key), undefined);
}
