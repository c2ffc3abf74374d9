/** Names under which the worklets register their processors, and what they say to the page. */

export const CAPTURE_PROCESSOR = "duplex-capture";
export const PLAYBACK_PROCESSOR = "duplex-playback";

/** Loudness is measured over slices of this length. */
export const SLICE_MS = 20;

/** Slices that are reported together: a message costs more than what it says. */
export const SLICES_PER_REPORT = 2;
