/**
 * The HTTP side of a connection: what to ask the server first, and what its refusals mean.
 *
 * @import { Loss, LossReason } from "./types.js"
 */

/** An attempt that has not succeeded after this is given up. */
export const CONNECT_TIMEOUT_MS = 12_000;

/** The page could not connect; `loss` says why. */
export class ConnectError extends Error {
  /** @param {Loss} loss */
  constructor(loss) {
    super(loss.detail || loss.reason);
    this.loss = loss;
  }
}

/**
 * @param {LossReason} reason
 * @param {string} [detail]
 * @param {number} [retryAfterS]
 * @returns {Loss}
 */
export function loss(reason, detail = "", retryAfterS = 0) {
  return { reason, detail, retry_after_s: retryAfterS };
}

/**
 * @param {string} apiKey
 * @returns {Record<string, string>}
 */
export function authorization(apiKey) {
  return apiKey ? { Authorization: `Bearer ${apiKey}` } : {};
}

/**
 * Read a refusal.
 *
 * @param {Response} response
 * @returns {Promise<ConnectError>}
 */
export async function refusal(response) {
  const body = await response.json().catch(() => ({}));
  const detail = typeof body?.error?.message === "string" ? body.error.message : "";
  if (response.status === 401 || response.status === 403) return new ConnectError(loss("unauthorized", detail));
  if (response.status === 503 || response.status === 429) {
    return new ConnectError(loss("full", detail, Number(response.headers.get("Retry-After")) || 0));
  }
  return new ConnectError(loss(response.status >= 500 ? "network" : "refused", detail));
}

/**
 * Ask which STUN and TURN servers to use; doing so also tells whether the key is good.
 *
 * @param {string} apiKey
 * @param {AbortSignal} signal
 * @returns {Promise<RTCIceServer[]>}
 * @throws {ConnectError} when the server refuses or cannot be reached
 */
export async function iceServers(apiKey, signal) {
  const response = await request("/v1/ice_servers", { headers: authorization(apiKey), signal });
  const body = await response.json().catch(() => ({}));
  const listed = Array.isArray(body) ? body : (body?.ice_servers ?? body?.iceServers);
  return Array.isArray(listed) ? listed : [];
}

/**
 * @param {string} path
 * @param {RequestInit} init
 * @returns {Promise<Response>} with a success status
 * @throws {ConnectError}
 */
export async function request(path, init) {
  let response;
  try {
    response = await fetch(path, { cache: "no-store", ...init });
  } catch {
    throw new ConnectError(loss("network"));
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/**
 * What a WebSocket's close code means. Source: spec of the wire, close codes; RFC 6455 §7.4.
 *
 * @param {number} code
 * @param {string} reason the server's words
 * @returns {Loss}
 */
export function lossOfClose(code, reason) {
  switch (code) {
    case 1000:
      return loss("goodbye", reason);
    case 1001:
      return loss("limit", reason);
    case 1008:
      return loss("unauthorized", reason);
    case 1003:
    case 1009:
      return loss("refused", reason);
    case 1012:
      return loss("shutdown", reason);
    case 1013:
      return loss("full", reason);
    default:
      return loss("network", reason);
  }
}
