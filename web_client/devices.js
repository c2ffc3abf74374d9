/**
 * Microphones, cameras and loudspeakers: which there are, how to open them, and what it means when that fails.
 *
 * @typedef {"microphone" | "camera" | "loudspeaker"} DeviceKind
 * @typedef {"blocked" | "missing" | "busy" | "insecure" | "failed"} DeviceProblem
 * @typedef {{ id: string, label: string }} DeviceChoice
 */

/** @type {Record<DeviceKind, MediaDeviceKind>} */
const KINDS = { microphone: "audioinput", camera: "videoinput", loudspeaker: "audiooutput" };

/** The browser removes the model's voice, noise and differences in loudness from the microphone. */
const VOICE_CONSTRAINTS = {
  echoCancellation: true,
  noiseSuppression: true,
  autoGainControl: true,
  channelCount: 1,
};

/** The model sees pictures of at most 448 px; more would be thrown away. */
const CAMERA_CONSTRAINTS = {
  width: { ideal: 640 },
  height: { ideal: 480 },
  frameRate: { ideal: 15, max: 30 },
};

/** A device could not be opened. */
export class DeviceError extends Error {
  /**
   * @param {DeviceKind} device
   * @param {DeviceProblem} problem
   */
  constructor(device, problem) {
    super(`${device}: ${problem}`);
    this.device = device;
    this.problem = problem;
  }
}

/**
 * @param {unknown} error what `getUserMedia` threw
 * @returns {DeviceProblem}
 */
export function problemOf(error) {
  const name = error instanceof Error || error instanceof DOMException ? error.name : "";
  if (name === "NotAllowedError" || name === "SecurityError") return "blocked";
  if (name === "NotFoundError" || name === "OverconstrainedError") return "missing";
  if (name === "NotReadableError" || name === "AbortError") return "busy";
  return "failed";
}

/** @returns {boolean} whether this page may use microphones and cameras at all */
export function mediaAllowed() {
  return window.isSecureContext && navigator.mediaDevices !== undefined;
}

/**
 * @param {"microphone" | "camera"} device
 * @param {string} id "" for the default
 * @returns {Promise<MediaStreamTrack>}
 * @throws {DeviceError}
 */
export async function openDevice(device, id) {
  if (!mediaAllowed()) throw new DeviceError(device, "insecure");
  try {
    return await openTrack(device, id);
  } catch (error) {
    // A device chosen long ago may be gone; the default one is better than none.
    if (!id || problemOf(error) !== "missing") throw new DeviceError(device, problemOf(error));
  }
  try {
    return await openTrack(device, "");
  } catch (error) {
    throw new DeviceError(device, problemOf(error));
  }
}

/**
 * @param {"microphone" | "camera"} device
 * @param {string} id
 * @returns {Promise<MediaStreamTrack>}
 */
async function openTrack(device, id) {
  const base = device === "microphone" ? VOICE_CONSTRAINTS : CAMERA_CONSTRAINTS;
  const wanted = id ? { ...base, deviceId: { exact: id } } : base;
  const stream = await navigator.mediaDevices.getUserMedia(
    device === "microphone" ? { audio: wanted } : { video: wanted },
  );
  const track = stream.getTracks()[0];
  if (!track) throw new DOMException("no track", "NotFoundError");
  return track;
}

/**
 * @param {DeviceKind} device
 * @param {readonly Pick<MediaDeviceInfo, "kind" | "deviceId" | "label">[]} all
 * @param {string} unnamed label where the browser does not tell, with the number appended
 * @returns {DeviceChoice[]} real devices; the pseudo-entries "default" and "communications" are left out
 */
export function choicesOf(device, all, unnamed) {
  return all
    .filter((info) => info.kind === KINDS[device])
    .filter((info) => info.deviceId !== "" && info.deviceId !== "default" && info.deviceId !== "communications")
    .map((info, index) => ({ id: info.deviceId, label: info.label || `${unnamed} ${index + 1}` }));
}

/** @returns {Promise<MediaDeviceInfo[]>} */
export async function listDevices() {
  return mediaAllowed() ? navigator.mediaDevices.enumerateDevices() : [];
}

/** @returns {boolean} whether this browser can play to a chosen loudspeaker */
export function loudspeakersSelectable() {
  return "setSinkId" in HTMLMediaElement.prototype && "setSinkId" in AudioContext.prototype;
}
