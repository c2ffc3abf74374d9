/**
 * Shows the state: the large word, the hint below it, what to do about a problem, and the buttons that fit.
 *
 * @import { SessionState, View } from "./session_state.js"
 * @import { Say } from "./timeline.js"
 * @import { LossReason } from "./types.js"
 * @import { TextKey } from "./i18n.js"
 */

import { find, setText } from "./dom.js";
import { viewOf } from "./session_state.js";

/** A notice goes away after this; long enough to read two sentences. */
const NOTICE_MS = 8000;

/** Losses that are told in their own words. @type {ReadonlySet<LossReason>} */
const PROBLEMS = new Set(["network", "unauthorized", "full", "media_path", "refused", "shutdown"]);

/** Beyond this a wait is told in minutes. */
const SECONDS_TOLD_MAX = 90;

/** State changes that are worth interrupting a screen reader's user for. */
/** @type {ReadonlySet<View>} */
const SPOKEN = new Set(["connecting", "queued", "interrupted", "reconnecting", "error", "idle"]);

export class StateView {
  /** @param {Say} say */
  constructor(say) {
    this.say = say;
    this.title = find("#state", HTMLElement);
    this.hint = find("#hint", HTMLElement);
    this.remedy = find("#remedy", HTMLElement);
    this.keyForm = find("#key-form", HTMLFormElement);
    this.again = find("#remedy-again", HTMLButtonElement);
    this.webSocket = find("#remedy-websocket", HTMLButtonElement);
    this.start = find("#start", HTMLButtonElement);
    this.mute = find("#mute", HTMLButtonElement);
    this.talk = find("#talk", HTMLButtonElement);
    this.interrupt = find("#interrupt", HTMLButtonElement);
    this.message = find("#message", HTMLInputElement);
    this.send = find("#message-form button", HTMLButtonElement);
    this.notice = find("#notice", HTMLElement);
    this.spoken = find("#announce-state", HTMLElement);
    this.noticeTimer = 0;
    /** @type {View} */
    this.lastView = "idle";
    /** Position in the line that was announced last. */
    this.lastPosition = 0;
    /** What to suggest saying; changes while the page listens. */
    this.example = "";
  }

  /**
   * @param {SessionState} state
   * @param {{ retryInS: number, keyRefused: boolean }} more `retryInS`: time left to the next attempt;
   *   `keyRefused`: a key was given and not accepted
   */
  draw(state, more) {
    const view = viewOf(state);
    document.body.dataset.view = view;
    document.body.dataset.reason = state.loss?.reason ?? "";
    setText(this.title, this.titleOf(state, view));
    setText(this.hint, this.hintOf(state, view, more));
    this.drawRemedy(state);
    this.drawControls(state, view);
    this.announceView(view, state.queue?.position ?? 0);
  }

  /**
   * @param {SessionState} state
   * @param {View} view
   * @returns {string}
   */
  titleOf(state, view) {
    const reason = state.loss?.reason;
    if (view === "queued" && state.queue) {
      const { position } = state.queue;
      return position > 1 ? this.say("state.queued", { position }) : this.say("state.queued.next");
    }
    if (view === "reconnecting" && reason === "full") return this.say("problem.full");
    if (view === "reconnecting" && !state.wasOpen) return this.say("state.connecting");
    if (view === "error" && reason && PROBLEMS.has(reason)) return this.say(/** @type {TextKey} */ (`problem.${reason}`));
    return this.say(`state.${view}`);
  }

  /**
   * @param {SessionState} state
   * @param {View} view
   * @param {{ retryInS: number, keyRefused: boolean }} more
   * @returns {string}
   */
  hintOf(state, view, more) {
    const reason = state.loss?.reason;
    switch (view) {
      case "error":
        if (reason === "unauthorized" && more.keyRefused) return this.say("problem.unauthorized.wrong");
        return reason && PROBLEMS.has(reason) ? this.say(/** @type {TextKey} */ (`problem.${reason}.do`)) : "";
      case "reconnecting":
        return this.retryHint(state, more.retryInS);
      case "queued":
        return this.lineHint(state.queue?.waitS ?? 0);
      case "idle":
        return this.say(reason === "goodbye" ? "hint.goodbye" : reason === "limit" ? "hint.limit" : "hint.idle");
      case "listening":
        if (state.policy === "push_to_talk") return this.say("hint.hold");
        return this.example ? this.say("hint.try", { example: this.example }) : this.say("hint.listening");
      case "speaking":
        return this.say(state.overlapping ? "hint.overlapping" : "hint.speaking");
      default:
        return this.say(`hint.${view}`);
    }
  }

  /**
   * @param {SessionState} state
   * @param {number} seconds left to the next attempt; 0 while it is being made
   * @returns {string}
   */
  retryHint(state, seconds) {
    if (state.loss?.reason === "full") return this.say(seconds > 0 ? "hint.full_in" : "hint.full", { seconds });
    if (!state.wasOpen) return this.say(seconds > 0 ? "hint.unreachable_in" : "hint.unreachable", { seconds });
    return this.say(seconds > 0 ? "hint.reconnecting_in" : "hint.reconnecting", { seconds });
  }

  /**
   * @param {number} waitS as the server estimates it
   * @returns {string}
   */
  lineHint(waitS) {
    if (waitS <= SECONDS_TOLD_MAX) return this.say("hint.queued.seconds", { seconds: Math.max(5, Math.ceil(waitS / 5) * 5) });
    return this.say("hint.queued.minutes", { minutes: Math.round(waitS / 60) });
  }

  /** @param {SessionState} state */
  drawRemedy(state) {
    const failed = state.phase === "failed";
    const reason = state.loss?.reason;
    const asksKey = failed && reason === "unauthorized";
    const appears = asksKey && this.keyForm.hidden;
    this.remedy.hidden = !failed;
    this.keyForm.hidden = !asksKey;
    this.again.hidden = asksKey || reason === "media_path";
    this.webSocket.hidden = !(failed && state.kind === "webrtc" && (reason === "media_path" || reason === "network"));
    this.webSocket.className = reason === "media_path" ? "solid" : "soft";
    if (appears) find("#key", HTMLInputElement).focus();
  }

  /**
   * @param {SessionState} state
   * @param {View} view
   */
  drawControls(state, view) {
    const running = state.phase !== "idle" && state.phase !== "failed";
    const live = state.phase === "live";
    this.start.classList.toggle("running", running);
    setText(this.start, this.say(live ? "action.stop" : running ? "action.cancel" : "action.start"));
    const holds = state.policy === "push_to_talk";
    this.mute.hidden = holds;
    this.talk.hidden = !holds;
    this.talk.disabled = !live;
    this.talk.classList.toggle("held", state.talking);
    this.mute.setAttribute("aria-pressed", String(state.muted));
    setText(find("#mute-text", HTMLElement), this.say(state.muted ? "action.unmute" : "action.mute"));
    const icon = state.muted && !holds ? "#i-mic-off" : "#i-mic";
    find("#mute-icon", SVGUseElement).setAttribute("href", icon);
    find("#voice-you-icon", SVGUseElement).setAttribute("href", icon);
    setText(find("#keys-space", HTMLElement), this.say(holds ? "keys.talk" : "keys.mute"));
    this.interrupt.disabled = view !== "speaking";
    this.message.disabled = !live;
    this.send.disabled = !live;
    const placeholder = this.say(live ? "conversation.type" : "conversation.type_off");
    if (this.message.placeholder !== placeholder) this.message.placeholder = placeholder;
  }

  /**
   * @param {View} view
   * @param {number} position in the line; 0 for none
   */
  announceView(view, position) {
    if (view === this.lastView && position === this.lastPosition) return;
    const connected = this.lastView === "connecting" || this.lastView === "reconnecting" || this.lastView === "queued";
    this.lastView = view;
    this.lastPosition = position;
    if (connected && view === "listening") this.announce(this.say("announce.live"));
    else if (SPOKEN.has(view)) this.announce(`${this.title.textContent}. ${this.hint.textContent}`);
  }

  /** @param {string} text */
  announce(text) {
    setText(this.spoken, text);
  }

  /** @param {string} text */
  tell(text) {
    this.notice.textContent = text;
    this.notice.hidden = false;
    window.clearTimeout(this.noticeTimer);
    this.noticeTimer = window.setTimeout(() => { this.notice.hidden = true; }, NOTICE_MS);
  }
}
