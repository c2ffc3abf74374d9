/**
 * The settings panel: shows what is chosen and what can be, and tells when the person chooses something else.
 *
 * @import { Preferences } from "./preferences.js"
 * @import { DeviceKind } from "./devices.js"
 * @import { Say } from "./timeline.js"
 * @import { Language } from "./types.js"
 */

import { choicesOf, loudspeakersSelectable } from "./devices.js";
import { find } from "./dom.js";

/** @type {readonly DeviceKind[]} */
const DEVICES = ["microphone", "loudspeaker", "camera"];

export class SettingsView {
  /**
   * @param {Say} say
   * @param {(name: keyof Preferences, value: string) => void} onChoice
   */
  constructor(say, onChoice) {
    this.say = say;
    this.panel = find("#settings", HTMLDialogElement);
    for (const device of DEVICES) {
      this.select(device).addEventListener("change", (event) => onChoice(device, valueOf(event)));
    }
    find("#choose-camera-mode", HTMLSelectElement).addEventListener("change", (event) => onChoice("cameraMode", valueOf(event)));
    for (const name of /** @type {const} */ (["policy", "transport", "language"])) {
      for (const input of this.panel.querySelectorAll(`input[name="${name}"]`)) {
        input.addEventListener("change", (event) => onChoice(name, valueOf(event)));
      }
    }
    // A click on the backdrop closes, as people expect of a side panel.
    this.panel.addEventListener("click", (event) => {
      if (event.target === this.panel) this.panel.close();
    });
  }

  open() {
    if (!this.panel.open) this.panel.showModal();
  }

  /**
   * @param {DeviceKind} device
   * @returns {HTMLSelectElement}
   */
  select(device) {
    return find(`#choose-${device}`, HTMLSelectElement);
  }

  /**
   * @param {Preferences} preferences
   * @param {Language} language in effect
   */
  draw(preferences, language) {
    find("#choose-camera-mode", HTMLSelectElement).value = preferences.cameraMode;
    const chosen = { policy: preferences.policy, transport: preferences.transport, language };
    for (const [name, value] of Object.entries(chosen)) {
      find(`input[name="${name}"][value="${value}"]`, HTMLInputElement, this.panel).checked = true;
    }
  }

  /**
   * @param {readonly MediaDeviceInfo[]} all
   * @param {Preferences} preferences
   */
  drawDevices(all, preferences) {
    for (const device of DEVICES) {
      const select = this.select(device);
      const choices = choicesOf(device, all, this.say(`settings.${device}`));
      const options = [{ id: "", label: this.say("settings.default_device") }, ...choices];
      select.replaceChildren(...options.map(({ id, label }) => new Option(label, id)));
      select.value = choices.some((choice) => choice.id === preferences[device]) ? preferences[device] : "";
    }
    const selectable = loudspeakersSelectable();
    this.select("loudspeaker").disabled = !selectable;
    find("#loudspeaker-note", HTMLElement).hidden = selectable;
    find("#devices-note", HTMLElement).hidden = all.some((info) => info.label !== "");
  }
}

/**
 * @param {Event} event
 * @returns {string}
 */
function valueOf(event) {
  const target = event.target;
  return target instanceof HTMLInputElement || target instanceof HTMLSelectElement ? target.value : "";
}
