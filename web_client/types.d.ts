/**
 * Shapes shared by the page's modules, and the few browser interfaces that TypeScript's DOM library does not know.
 * Only the type checker reads this file; browsers never load it.
 */

export type TransportKind = "webrtc" | "websocket";
export type Policy = "guarded" | "immediate" | "model" | "push_to_talk";
export type Language = "en" | "zh";

/** What the page keeps of a session object. */
export interface SessionFacts {
  id: string;
  model: string;
  examples: string[];
  /** Whether the model reports what it hears. */
  transcribes: boolean;
  languages: string[];
}

/** Server events that the page acts on, checked by `decodeServerEvent`; everything else is `other`. */
export type ServerEvent =
  | { type: "session.created" | "session.updated"; session: SessionFacts }
  /** Also for `session.queue_update`: the newest is what counts. */
  | { type: "session.queued"; position: number; estimated_wait_s: number }
  | { type: "session.queue_done" | "session.closed" }
  | { type: "session.go_away"; reason: string; time_left_ms: number }
  | { type: "error"; code: string; message: string; kind: string }
  | { type: "input_audio_buffer.speech_started"; item_id: string; audio_start_ms: number }
  | { type: "input_audio_buffer.speech_stopped"; item_id: string; audio_end_ms: number }
  | { type: "conversation.item.truncated"; item_id: string; audio_end_ms: number }
  | { type: "conversation.item.input_audio_transcription.delta"; item_id: string; delta: string; transcript: string | null }
  | { type: "conversation.item.input_audio_transcription.completed"; item_id: string; transcript: string }
  | { type: "response.created"; response_id: string }
  | { type: "response.output_item.added"; response_id: string; item_id: string }
  | { type: "response.output_audio.delta"; response_id: string; item_id: string; delta: string }
  | {
      type: "response.output_audio_transcript.delta";
      response_id: string;
      item_id: string;
      delta: string;
      /** Where in the response's audio the text starts to be spoken; null where the server does not say. */
      audio_start_ms: number | null;
    }
  | { type: "response.done"; response_id: string; status: string; reason: string; detail: string }
  | { type: "output_audio_buffer.started" | "output_audio_buffer.stopped" | "output_audio_buffer.cleared"; response_id: string }
  | { type: "overlap.decision"; action: string; reason: string }
  | { type: "playback.position"; response_id: string; played_ms: number }
  | { type: "session.heartbeat_ack" }
  | { type: "other"; name: string };

/** Client events, as they go over the wire. */
export interface ClientEvent {
  type: string;
  [key: string]: unknown;
}

/** Why a connection could not be made, or ended. */
export type LossReason =
  | "network"
  | "unauthorized"
  | "full"
  | "media_path"
  | "limit"
  | "shutdown"
  | "goodbye"
  | "refused";

export interface Loss {
  reason: LossReason;
  /** Seconds the server asked to wait before the next attempt; 0 where it did not. */
  retry_after_s: number;
  /** The server's own words, for the person; may be empty. */
  detail: string;
}

/** What a transport tells the page. */
export interface TransportListener {
  onEvent(event: ServerEvent): void;
  onLoss(loss: Loss): void;
  /** Nothing gets through at the moment, and the transport tries to mend it; or it is mended. */
  onStall(on: boolean): void;
  /** The model's sound started, ended by itself, or was cut, at this listener's ears. */
  onPlayback(state: "started" | "stopped" | "cleared", responseId: string): void;
  /** How much of an item has been heard, ms of its audio. */
  onPlayed(itemId: string, playedMs: number): void;
  /** Loudness of the newest 20 ms slices of the model's voice as heard. */
  onModelLevels(rms: readonly number[]): void;
}

export interface Quality {
  kind: TransportKind;
  rttMs: number | null;
  jitterMs: number | null;
  /** Share of packets lost since the last report, 0..1. */
  loss: number | null;
  /** Bytes that wait to be sent (WebSocket). */
  bufferedBytes: number | null;
  /** Times the player ran dry since the connection was made. */
  underruns: number | null;
}

/** A connection to the server. One per session; made anew for each attempt. */
export interface Transport {
  readonly kind: TransportKind;
  open(): Promise<void>;
  send(event: ClientEvent): void;
  /** Drop sound that has not been heard, and tell the server how far it was; no-op where the server plays itself. */
  flush(): void;
  duck(on: boolean): void;
  /** Change the track that is sent, for transports that send tracks. */
  setMicrophone(track: MediaStreamTrack | null): Promise<void>;
  /** Send the camera as a track; resolves to false where it must be sent as stills instead. */
  setCameraTrack(track: MediaStreamTrack | null): Promise<boolean>;
  setLoudspeaker(deviceId: string): Promise<void>;
  quality(): Promise<Quality>;
  /** Samples of the microphone at the wire's rate, for transports that send them themselves. */
  sendSamples(samples: Int16Array): void;
  /** Largest message that `send` may take, bytes. */
  readonly maxMessageBytes: number;
  /** Bytes that `send` has taken and that have not left. */
  readonly backlogBytes: number;
  close(): void;
}

export interface LevelSample {
  /** `performance.now()` at the end of the slice. */
  t: number;
  rms: number;
}

declare global {
  interface Window {
    duplex: import("./probe.js").Probe;
  }

  // Not in TypeScript 5.9's DOM library: https://webaudio.github.io/web-audio-api/#dom-audiocontext-setsinkid
  interface AudioContext {
    setSinkId?(sinkId: string): Promise<void>;
  }
  interface AudioContextOptions {
    sinkId?: string | { type: "none" };
  }

  // Not in TypeScript 5.9's DOM library: https://w3c.github.io/webrtc-extensions/#dom-rtcrtpreceiver-jitterbuffertarget
  interface RTCRtpReceiver {
    jitterBufferTarget?: number | null;
  }

  // Not in TypeScript 5.9's DOM library, and in Chromium only: https://w3c.github.io/mediacapture-transform/#track-processor
  class MediaStreamTrackProcessor {
    constructor(options: { track: MediaStreamTrack; maxBufferSize?: number });
    readonly readable: ReadableStream<AudioData>;
  }

  // The global scope of audio worklets: https://webaudio.github.io/web-audio-api/#AudioWorkletGlobalScope
  class AudioWorkletProcessor {
    readonly port: MessagePort;
  }
  function registerProcessor(name: string, processor: new (options: AudioWorkletNodeOptions) => AudioWorkletProcessor): void;
  const sampleRate: number;
  const currentFrame: number;
}
