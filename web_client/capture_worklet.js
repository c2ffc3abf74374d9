/** Listens to one audio input in the audio thread; see `capture.js` for what it reports. */

import { Capture } from "./capture.js";
import { CAPTURE_PROCESSOR } from "./worklet_names.js";

class CaptureProcessor extends AudioWorkletProcessor {
  constructor() {
    super();
    this.capture = new Capture(sampleRate, (report) => this.port.postMessage(report));
    this.port.onmessage = (message) => this.capture.obey(message.data);
  }

  /**
   * @param {Float32Array[][]} inputs
   * @returns {boolean}
   */
  process(inputs) {
    this.capture.push(inputs[0] ?? []);
    return true;
  }
}

registerProcessor(CAPTURE_PROCESSOR, CaptureProcessor);
