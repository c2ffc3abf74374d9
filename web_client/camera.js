/**
 * The open camera: the person's own picture, and stills for the model.
 */

import { openDevice } from "./devices.js";

/** The model looks about once a second. */
export const STILL_EVERY_MS = 1000;

/** Longer side of a still. Source: the server scales pictures to 448 px. */
const STILL_MAX_PX = 448;

/** Qualities tried in turn until the still fits into one message; what does not fit even then is halved in size. */
const QUALITIES = [0.72, 0.5, 0.3];

export class Camera {
  /**
   * @param {HTMLVideoElement} preview
   * @param {() => void} onGone the device was unplugged or taken away
   */
  constructor(preview, onGone) {
    this.preview = preview;
    this.onGone = onGone;
    /** @type {MediaStreamTrack | null} */
    this.track = null;
    this.canvas = document.createElement("canvas");
  }

  /**
   * @param {string} deviceId "" for the default
   * @returns {Promise<MediaStreamTrack>}
   * @throws {import("./devices.js").DeviceError}
   */
  async start(deviceId) {
    const track = await openDevice("camera", deviceId);
    this.stop();
    this.track = track;
    track.onended = () => this.onGone();
    this.preview.srcObject = new MediaStream([track]);
    // An autoplay refusal concerns only the preview's sound, and it has none.
    await this.preview.play().catch(() => {});
    return track;
  }

  stop() {
    if (this.track) this.track.onended = null;
    this.track?.stop();
    this.track = null;
    this.preview.srcObject = null;
  }

  /**
   * Take a picture.
   *
   * @param {number} maxChars longest base64 text that may be returned
   * @returns {string | null} JPEG as base64; null where there is no picture yet, or none that is small enough
   */
  still(maxChars) {
    const { videoWidth, videoHeight } = this.preview;
    if (!this.track || videoWidth === 0) return null;
    const scale = Math.min(1, STILL_MAX_PX / Math.max(videoWidth, videoHeight));
    for (const shrink of [1, 0.5]) {
      this.canvas.width = Math.round(videoWidth * scale * shrink);
      this.canvas.height = Math.round(videoHeight * scale * shrink);
      this.canvas.getContext("2d")?.drawImage(this.preview, 0, 0, this.canvas.width, this.canvas.height);
      for (const quality of QUALITIES) {
        const url = this.canvas.toDataURL("image/jpeg", quality);
        const base64 = url.slice(url.indexOf(",") + 1);
        if (base64.length <= maxChars) return base64;
      }
    }
    return null;
  }
}
