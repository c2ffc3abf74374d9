/**
 * The open microphone: its track, its loudness, its samples, and whether sound may leave it.
 *
 * @import { CaptureReport } from "./capture.js"
 */

import { Listener, Room } from "./audio_nodes.js";
import { openDevice } from "./devices.js";
import { TrackReader } from "./track_reader.js";

export class Microphone {
  /**
   * @param {{ onReport: (report: CaptureReport) => void, onGone: () => void }} listener
   *   `onGone`: the device was unplugged or taken away
   */
  constructor(listener) {
    this.listener = listener;
    /** @type {MediaStreamTrack | null} */
    this.track = null;
    /** @type {Room | null} where it is listened to; others may listen there too */
    this.room = null;
    /** @type {TrackReader | Listener | null} */
    this.ear = null;
    this.open = false;
  }

  /**
   * Get ready to listen, with or without a device.
   *
   * @returns {Promise<Room>}
   */
  async prepare() {
    this.room ??= new Room();
    const room = this.room;
    await room.prepare();
    /** @type {(report: CaptureReport) => void} */
    const onReport = (report) => this.listener.onReport(report);
    this.ear ??= TrackReader.available ? new TrackReader(onReport) : new Listener(room, onReport);
    return room;
  }

  /**
   * @param {string} deviceId "" for the default
   * @returns {Promise<MediaStreamTrack>}
   * @throws {import("./devices.js").DeviceError}
   */
  async start(deviceId) {
    const track = await openDevice("microphone", deviceId);
    this.release();
    this.track = track;
    track.enabled = this.open;
    track.onended = () => this.listener.onGone();
    await this.prepare();
    this.ear?.listenTo(new MediaStream([track]));
    return track;
  }

  /**
   * Let sound leave, or not. A closed microphone gives silence of the right length.
   *
   * @param {boolean} open
   */
  setOpen(open) {
    this.open = open;
    if (this.track) this.track.enabled = open;
  }

  /** @param {boolean} wanted whether the samples are to be reported, not only their loudness */
  giveSamples(wanted) {
    this.ear?.order({ samples: wanted });
  }

  release() {
    if (!this.track) return;
    this.track.onended = null;
    this.track.stop();
    this.track = null;
  }

  stop() {
    this.release();
    this.ear?.close();
    this.ear = null;
    this.room?.close();
    this.room = null;
  }
}
