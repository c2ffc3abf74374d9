/**
 * The composition of the page: makes the parts, connects buttons and keys to the app, and draws.
 *
 * @import { Preferences } from "./preferences.js"
 * @import { Command } from "./shortcuts.js"
 * @import { TextKey } from "./i18n.js"
 * @import { Language, Policy, TransportKind } from "./types.js"
 */

import { App } from "./app.js";
import { CaptionsView } from "./captions_view.js";
import { listDevices } from "./devices.js";
import { find, reducedMotion, setText } from "./dom.js";
import { applyLanguage, bestLanguage, translate } from "./i18n.js";
import { loadApiKey, loadPreferences, saveApiKey, savePreferences } from "./preferences.js";
import { makeProbe } from "./probe.js";
import { viewOf } from "./session_state.js";
import { SettingsView } from "./settings_view.js";
import { listenForKeys } from "./shortcuts.js";
import { Stage } from "./stage.js";
import { StateView } from "./state_view.js";
import { TimelineView } from "./timeline.js";
import { VitalsView } from "./vitals_view.js";

/** A new suggestion is shown this often while the page listens. */
const EXAMPLE_EVERY_MS = 6000;

/** Pause between two pictures: voices move smoothly at 30 a second, and a page should not warm the device; longer while
 * nothing happens ... */
const FRAME_MS = 24;
const RESTING_FRAME_MS = 50;

/** ... and where less movement is asked for, a few steps a second are enough. */
const CALM_FRAME_MS = 100;

/** @type {Preferences} */
const preferences = loadPreferences();
/** @type {Language} */
let language = preferences.language || bestLanguage(navigator.languages);

/**
 * @param {TextKey} key
 * @param {Record<string, string | number>} [values]
 * @returns {string}
 */
const say = (key, values) => translate(language, key, values);

const preview = find("#preview", HTMLVideoElement);
const stage = new Stage(find("#orbs", HTMLElement));
const timelineView = new TimelineView(find("#timeline canvas", HTMLCanvasElement), say);
const captionsView = new CaptionsView(say);
const stateView = new StateView(say);
const vitalsView = new VitalsView(say);
const settingsView = new SettingsView(say, choose);

let changed = true;
let captionsShown = -1;
let exampleIndex = 0;
let examplesShown = "";

const app = new App(preferences, language, loadApiKey(), preview, {
  onChange: () => { changed = true; },
  onServerMessage: (message) => stateView.tell(say("notice.server", { message })),
  onEndsSoon: (seconds) => stateView.tell(say("notice.ends_soon", { seconds })),
  onDeviceError: (error) => {
    const key = error.device === "loudspeaker" ? "device.loudspeaker.failed" : /** @type {const} */ (`device.${error.device}.${error.problem}`);
    stateView.tell(say(key));
  },
  onDeviceGone: (device) => stateView.tell(say(`device.${device}.gone`)),
  onReconnected: () => app.captions.note(say("conversation.reconnected")),
});

/**
 * @param {keyof Preferences} name
 * @param {string} value
 */
function choose(name, value) {
  /** @type {Record<string, string>} */ (/** @type {unknown} */ (preferences))[name] = value;
  savePreferences(preferences);
  if (name === "policy") app.dispatch({ type: "policy", policy: /** @type {Policy} */ (value) });
  if (name === "transport") app.dispatch({ type: "kind", kind: /** @type {TransportKind} */ (value) });
  if (name === "language") setLanguage(/** @type {Language} */ (value));
  if (name === "microphone") void app.chooseMicrophone(value);
  if (name === "loudspeaker") void app.chooseLoudspeaker(value);
  if (name === "camera" && app.camera.track) void app.setCamera(true);
  if (name === "cameraMode") void app.sendCamera();
  settingsView.draw(preferences, language);
}

/** @param {Language} chosen */
function setLanguage(chosen) {
  language = chosen;
  showLanguage();
  app.dispatch({ type: "language", language });
}

function showLanguage() {
  applyLanguage(document, language);
  const other = find("#language", HTMLButtonElement);
  other.textContent = say("action.language");
  other.lang = language === "en" ? "zh-Hans" : "en";
  other.setAttribute("aria-label", say("action.language.label"));
  timelineView.describe();
  captionsView.redraw();
  captionsShown = -1;
  examplesShown = "";
  changed = true;
  settingsView.draw(preferences, language);
  void showDevices();
}

async function showDevices() {
  settingsView.drawDevices(await listDevices(), preferences);
}

function toggleStart() {
  const running = app.state.phase !== "idle" && app.state.phase !== "failed";
  app.dispatch({ type: running ? "stop" : "start" });
}

function toggleMute() {
  app.dispatch({ type: "mute", on: !app.state.muted });
  stateView.announce(say(app.state.muted ? "announce.muted" : "announce.unmuted"));
}

async function toggleCamera() {
  await app.setCamera(!app.camera.track);
  stateView.announce(say(app.camera.track ? "announce.camera_on" : "announce.camera_off"));
}

/**
 * @param {Command} command
 * @param {boolean} down
 */
function obey(command, down) {
  if (command === "space") {
    if (app.state.policy === "push_to_talk") app.dispatch({ type: "talk", on: down });
    else if (down) toggleMute();
    return;
  }
  if (command === "start") toggleStart();
  if (command === "interrupt") app.dispatch({ type: "interrupt" });
  if (command === "camera") void toggleCamera();
  if (command === "type") find("#message", HTMLInputElement).focus();
}

/**
 * @param {string} selector
 * @param {() => void} action
 */
function onPress(selector, action) {
  const button = find(selector, HTMLButtonElement);
  button.addEventListener("click", (event) => {
    // After a click with the mouse the space bar must mean "mute", not this button again.
    if (event.detail > 0) button.blur();
    action();
  });
}

function connectControls() {
  onPress("#start", toggleStart);
  onPress("#mute", toggleMute);
  onPress("#camera", () => void toggleCamera());
  onPress("#interrupt", () => app.dispatch({ type: "interrupt" }));
  onPress("#remedy-again", toggleStart);
  onPress("#remedy-websocket", () => {
    choose("transport", "websocket");
    toggleStart();
  });
  onPress("#language", () => choose("language", language === "en" ? "zh" : "en"));
  onPress("#settings-open", () => {
    void showDevices();
    settingsView.open();
  });
  const talk = find("#talk", HTMLButtonElement);
  talk.addEventListener("pointerdown", (event) => {
    talk.setPointerCapture(event.pointerId);
    app.dispatch({ type: "talk", on: true });
  });
  for (const name of ["pointerup", "pointercancel", "blur"]) {
    talk.addEventListener(name, () => app.dispatch({ type: "talk", on: false }));
  }
  talk.addEventListener("contextmenu", (event) => event.preventDefault());
  for (const [name, on] of /** @type {const} */ ([["keydown", true], ["keyup", false]])) {
    talk.addEventListener(name, (event) => {
      if (event.code !== "Space" && event.code !== "Enter") return;
      event.preventDefault();
      if (!event.repeat) app.dispatch({ type: "talk", on });
    });
  }
}

function connectForms() {
  const message = find("#message", HTMLInputElement);
  find("#message-form", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    app.say(message.value);
    message.value = "";
  });
  message.addEventListener("keydown", (event) => {
    if (event.key === "Escape") message.blur();
  });
  find("#key-form", HTMLFormElement).addEventListener("submit", (event) => {
    event.preventDefault();
    app.apiKey = find("#key", HTMLInputElement).value.trim();
    saveApiKey(app.apiKey);
    app.dispatch({ type: "start" });
  });
}

function connectBrowser() {
  listenForKeys(obey);
  window.addEventListener("online", () => app.dispatch({ type: "online" }));
  window.addEventListener("pagehide", () => app.disconnect());
  navigator.mediaDevices?.addEventListener("devicechange", () => void showDevices());
  window.setInterval(() => {
    if (viewOf(app.state) !== "listening") return;
    exampleIndex += 1;
    changed = true;
  }, EXAMPLE_EVERY_MS);
}

function showExamples() {
  const examples = app.state.facts?.examples ?? [];
  const text = examples.join("\n");
  if (text === examplesShown) return;
  examplesShown = text;
  const box = find("#examples", HTMLElement);
  box.hidden = examples.length === 0;
  find("ul", HTMLUListElement, box).replaceChildren(
    ...examples.map((example) => {
      const entry = document.createElement("li");
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = example;
      button.addEventListener("click", () => app.say(example));
      entry.append(button);
      return entry;
    }),
  );
}

/** @param {number} nowMs */
function showState(nowMs) {
  const examples = app.state.facts?.examples ?? [];
  stateView.example = examples.length > 0 ? (examples[exampleIndex % examples.length] ?? "") : "";
  const retryInS = app.state.phase === "reconnecting" ? Math.ceil((app.retryAtMs - nowMs) / 1000) : 0;
  stateView.draw(app.state, { retryInS, keyRefused: app.apiKey !== "" });
  const camera = app.camera.track !== null;
  find("#camera", HTMLButtonElement).setAttribute("aria-pressed", String(camera));
  setText(find("#camera-text", HTMLElement), say(camera ? "action.camera_off" : "action.camera_on"));
  preview.hidden = !camera;
  vitalsView.drawLatency(app.latency.last);
  vitalsView.drawQuality(app.quality);
  showExamples();
}

/** @param {number} nowMs */
function draw(nowMs) {
  const resting = app.state.phase === "idle" || app.state.phase === "failed";
  const pause_ms = reducedMotion() ? CALM_FRAME_MS : resting ? RESTING_FRAME_MS : FRAME_MS;
  // A frame that is asked for costs the browser its work even if nothing is drawn in it.
  window.setTimeout(() => requestAnimationFrame(draw), pause_ms);
  if (resting) for (const side of Object.values(app.levels)) side.rest();
  if (changed || app.state.phase === "reconnecting") {
    changed = false;
    showState(nowMs);
  }
  if (app.captions.version !== captionsShown) {
    captionsShown = app.captions.version;
    captionsView.draw(app.captions.shown());
  }
  const levels = { you: app.levels.user.meter, model: app.levels.model.meter };
  stage.draw(nowMs, viewOf(app.state), levels);
  vitalsView.drawMeters(levels, nowMs);
  timelineView.draw(app.timeline, nowMs);
}

connectControls();
connectForms();
connectBrowser();
showLanguage();
Object.defineProperty(window, "duplex", { value: makeProbe(app), writable: false });
requestAnimationFrame(draw);
