/**
 * The private routes between host and guest agent: readiness, init, prepare, cancel.
 *
 * All live on the agent's port. Everything but `GET /health` needs the host key in `hostKeyHeader`
 * once one is installed; the edge never forwards these paths from outside. The key of a template is
 * replaced by the sandbox's own in the first `init` after a restore.
 *
 * Order of a pause: `prepare` → the host holds the vCPUs and saves. If anything fails before the
 * snapshot is published: `cancel`. Order of a wake: `GET /health` until it answers → `init`, which
 * makes the guest right again and thaws user processes last.
 *
 * A generation is a number the host hands out, larger for every restore of a sandbox. It travels in
 * `init` only, so nothing inside the guest can consume it.
 */
import {
  TorporError,
  optional,
  parseBoolean,
  parseInteger,
  parseObject,
  parseString,
  parseStringMap,
} from "@torpor/std";

/** TCP port of the agent in every guest, as in the E2B wire. */
export const agentPort = 49_983;
/** Address of every guest. All are the same; a namespace per sandbox keeps them apart. */
export const guestAddress = "169.254.0.21";
export const gatewayAddress = "169.254.0.22";
export const guestPrefixBits = 30;
/** MAC of every guest, locally administered. */
export const guestMac = "02:54:4f:52:50:52";
/** All of the above, as the network is told. */
export const guestAddressing = {
  guestAddress,
  gatewayAddress,
  guestPrefixBits,
  guestMac,
  agentPort,
} as const;

export const hostKeyHeader = "x-torpor-host-key";
export const accessTokenHeader = "x-access-token";

export const healthRoute = "/health";
export const initRoute = "/init";
export const prepareRoute = "/snapshot/prepare";
export const cancelRoute = "/snapshot/cancel";
/** Paths on the agent's port that are for the host alone; the edge answers 404 for them. */
export const privateRoutes: readonly string[] = [initRoute, prepareRoute, cancelRoute];

/** LIMIT: the largest init body; environment variables are the only part that grows. */
export const initBodyBytesMax = 1 << 20;
/** Bytes of entropy the host sends on every init: twice what the kernel's generator keys with. */
export const entropyBytes = 64;

/** Body of `POST /init`. */
export interface InitRequest {
  /** Of this restore; a smaller one than the agent has seen is refused. */
  readonly generation: number;
  /** Fresh random bytes from the host, base64, `entropyBytes` long. */
  readonly entropy: string;
  /** Wall clock of the host when the request is sent, milliseconds since 1970. */
  readonly timestampMs: number;
  /** Replaces the key that authorises private routes. */
  readonly hostKey: string;
  readonly sandboxId: string;
  readonly templateId: string;
  /** Demanded in `X-Access-Token` from now on; null: no token is demanded. */
  readonly accessToken: string | null;
  /** Replaces the sandbox-wide environment; null keeps it. */
  readonly envVars: Readonly<Record<string, string>> | null;
  readonly defaultUser: string;
  /** Null: the user's home. */
  readonly defaultWorkdir: string | null;
}

/** Answer of `POST /init`. */
export interface InitResponse {
  readonly generation: number;
  /** SHA-256, hex, of 64 fresh bytes of the kernel's and of the agent's generator, for comparison. */
  readonly randomHash: string;
  /** How far the wall clock was stepped, in milliseconds; 0 when it was right. */
  readonly clockStepMs: number;
  /** Connections of older generations that were destroyed. */
  readonly connectionsDestroyed: number;
}

/** Answer of `POST /snapshot/prepare`, sent on a connection that closes after it. */
export interface PrepareResponse {
  readonly generation: number;
  /** Connections that were closed because nothing was in flight on them. */
  readonly connectionsClosed: number;
  /** Connections with work in flight, recorded to be destroyed by the next init. */
  readonly connectionsRecorded: number;
  /** User processes in the frozen cgroup. */
  readonly processesFrozen: number;
}

/** Answer of `POST /snapshot/cancel`. */
export interface CancelResponse {
  /** False when nothing was prepared. */
  readonly canceled: boolean;
}

const generationMax = Number.MAX_SAFE_INTEGER;

/** @throws argument.invalid */
export function parseInitRequest(value: unknown): InitRequest {
  const body = parseObject(value, "init");
  const entropy = parseString(body["entropy"], "entropy", 256);
  if (Buffer.from(entropy, "base64").length !== entropyBytes) {
    throw new TorporError("argument.invalid", `entropy must be ${entropyBytes} bytes in base64`);
  }
  return {
    generation: parseInteger(body["generation"], "generation", 1, generationMax),
    entropy,
    timestampMs: parseInteger(body["timestampMs"], "timestampMs", 0, Number.MAX_SAFE_INTEGER),
    hostKey: parseString(body["hostKey"], "hostKey", 256),
    sandboxId: parseString(body["sandboxId"], "sandboxId", 64),
    templateId: parseString(body["templateId"], "templateId", 64),
    accessToken: optional(body["accessToken"], parseString, "accessToken") ?? null,
    envVars: optional(body["envVars"], parseStringMap, "envVars") ?? null,
    defaultUser: parseString(body["defaultUser"], "defaultUser", 64),
    defaultWorkdir: optional(body["defaultWorkdir"], parseString, "defaultWorkdir") ?? null,
  };
}

/** A guest's answer is hostile input too. @throws argument.invalid */
export function parseInitResponse(value: unknown): InitResponse {
  const body = parseObject(value, "init response");
  return {
    generation: parseInteger(body["generation"], "generation", 1, generationMax),
    randomHash: parseString(body["randomHash"], "randomHash", 64),
    clockStepMs: parseInteger(
      body["clockStepMs"],
      "clockStepMs",
      Number.MIN_SAFE_INTEGER,
      Number.MAX_SAFE_INTEGER,
    ),
    connectionsDestroyed: parseCount(body["connectionsDestroyed"], "connectionsDestroyed"),
  };
}

/** @throws argument.invalid */
export function parsePrepareResponse(value: unknown): PrepareResponse {
  const body = parseObject(value, "prepare response");
  return {
    generation: parseInteger(body["generation"], "generation", 0, generationMax),
    connectionsClosed: parseCount(body["connectionsClosed"], "connectionsClosed"),
    connectionsRecorded: parseCount(body["connectionsRecorded"], "connectionsRecorded"),
    processesFrozen: parseCount(body["processesFrozen"], "processesFrozen"),
  };
}

/** @throws argument.invalid */
export function parseCancelResponse(value: unknown): CancelResponse {
  const body = parseObject(value, "cancel response");
  return { canceled: parseBoolean(body["canceled"], "canceled") };
}

function parseCount(value: unknown, what: string): number {
  return parseInteger(value, what, 0, 1_000_000);
}
