/**
 * How far the sound of a media track has been played, told by the timestamps of its packets. Pure.
 */

/** Opus' RTP clock. Source: RFC 7587 §4.1. */
const RTP_HZ = 48_000;

/** What a packet of the server holds, which its timestamp names the beginning of. */
const PACKET_MS = 20;

const WRAP = 2 ** 32;

export class TrackProgress {
  constructor() {
    /** @type {number | null} */
    this.first = null;
    this.newest = 0;
  }

  /** @param {number} rtpTimestamp of the packet that is being played */
  note(rtpTimestamp) {
    this.first ??= rtpTimestamp;
    this.newest = rtpTimestamp;
  }

  /** ms from the beginning of the track's first packet to the end of the newest; null before the first. */
  get playedMs() {
    if (this.first === null) return null;
    return (((this.newest - this.first + WRAP) % WRAP) * 1000) / RTP_HZ + PACKET_MS;
  }
}
