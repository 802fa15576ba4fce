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
  parseOneOf,
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
/** Of the answer to `GET /health`: the guest's CLOCK_MONOTONIC in milliseconds, with decimals. */
export const monotonicHeader = "torpor-monotonic-ms";

export const healthRoute = "/health";
export const initRoute = "/init";
export const prepareRoute = "/snapshot/prepare";
export const cancelRoute = "/snapshot/cancel";
/**
 * A connection to a port of the guest that only the guest itself can reach is asked for by
 * `CONNECT localhost:<port>` on the agent's port, with the host key. 200: bytes pass from there on;
 * 502: nobody listens there. The edge lets no CONNECT of a client through.
 */
export const tunnelHost = "localhost";
/** Paths on the agent's port that are for the host alone; the edge answers 404 for them. */
export const privateRoutes: readonly string[] = [initRoute, prepareRoute, cancelRoute];

/** LIMIT: the largest init body; environment variables are the only part that grows. */
export const initBodyBytesMax = 1 << 20;
/** Bytes of entropy the host sends on every init: twice what the kernel's generator keys with. */
export const entropyBytes = 64;

/**
 * Why a guest is woken. `create`: a new sandbox from a template; `fork`: a new sandbox from the memory
 * of another; `resume`: the same sandbox goes on.
 */
export type WakeReason = "create" | "fork" | "resume";

/**
 * Why a guest is prepared. `pause`: its VM ends and a later one goes on. `checkpoint`: it goes on itself
 * by `cancel`, with its connections, and others may be made from what is saved.
 */
export type PrepareReason = "pause" | "checkpoint";

/** What tells one machine from another. Drawn by the host, so that no two guests ever agree on it. */
export interface MachineIdentity {
  readonly hostname: string;
  /** 32 hex digits, as machine-id(5) has it. */
  readonly machineId: string;
  /** A UUID, as /proc/sys/kernel/random/boot_id has it. */
  readonly bootId: string;
}

/** Body of `POST /init`. */
export interface InitRequest {
  readonly reason: WakeReason;
  /** Taken on by a new sandbox; null keeps the one the guest has. */
  readonly machine: MachineIdentity | null;
  /** How long the guest lay on disk, in milliseconds, for its own programs to know. */
  readonly suspendedMs: number;
  /** Of this restore; a smaller one than the agent has seen is refused. */
  readonly generation: number;
  /** Fresh random bytes from the host, base64, `entropyBytes` long. */
  readonly entropy: string;
  /** Wall clock of the host, milliseconds since 1970: at the instant of the field below. */
  readonly timestampMs: number;
  /**
   * The guest's monotonic clock when the host's read `timestampMs`, so that it does not matter how long
   * the request is on its way. Without it: the moment the request arrives.
   */
  readonly timestampMonoMs?: number | undefined;
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
  /** The agent's own connections of older generations that were destroyed. */
  readonly connectionsDestroyed: number;
  /** Other TCP connections of the guest whose far end is gone, all but those over loopback. */
  readonly socketsDestroyed: number;
  /** Of `post-restore.d`. */
  readonly hooks: HookCounts;
}

/** Hooks of the sandbox's own programs that were run. */
export interface HookCounts {
  readonly run: number;
  /** Of these: ended with another status than 0, or killed when their budget was used up. */
  readonly failed: number;
}

/** Body of `POST /snapshot/prepare`. */
export interface PrepareRequest {
  readonly reason: PrepareReason;
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
  /** Of `pre-snapshot.d`. */
  readonly hooks: HookCounts;
}

/** Answer of `POST /snapshot/cancel`. */
export interface CancelResponse {
  /** False when nothing was prepared. */
  readonly canceled: boolean;
}

const generationMax = Number.MAX_SAFE_INTEGER;
const wakeReasons: readonly WakeReason[] = ["create", "fork", "resume"];
const prepareReasons: readonly PrepareReason[] = ["pause", "checkpoint"];
/** What Linux and machine-id(5) take; a name goes into files that programs read line by line. */
const hostnamePattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const machineIdPattern = /^[0-9a-f]{32}$/;
const bootIdPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** @throws argument.invalid */
export function parseInitRequest(value: unknown): InitRequest {
  const body = parseObject(value, "init");
  const entropy = parseString(body["entropy"], "entropy", 256);
  if (Buffer.from(entropy, "base64").length !== entropyBytes) {
    throw new TorporError("argument.invalid", `entropy must be ${entropyBytes} bytes in base64`);
  }
  return {
    reason: parseOneOf(body["reason"], "reason", wakeReasons),
    machine: optional(body["machine"], parseMachineIdentity, "machine") ?? null,
    suspendedMs: parseMs(body["suspendedMs"], "suspendedMs"),
    generation: parseInteger(body["generation"], "generation", 1, generationMax),
    entropy,
    timestampMs: parseMs(body["timestampMs"], "timestampMs"),
    timestampMonoMs: optional(body["timestampMonoMs"], parseMs, "timestampMonoMs"),
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
    socketsDestroyed: parseCount(body["socketsDestroyed"], "socketsDestroyed"),
    hooks: parseHookCounts(body["hooks"], "hooks"),
  };
}

/** @throws argument.invalid */
export function parsePrepareRequest(value: unknown): PrepareRequest {
  const body = parseObject(value, "prepare");
  return { reason: parseOneOf(body["reason"], "reason", prepareReasons) };
}

/** @throws argument.invalid */
export function parsePrepareResponse(value: unknown): PrepareResponse {
  const body = parseObject(value, "prepare response");
  return {
    generation: parseInteger(body["generation"], "generation", 0, generationMax),
    connectionsClosed: parseCount(body["connectionsClosed"], "connectionsClosed"),
    connectionsRecorded: parseCount(body["connectionsRecorded"], "connectionsRecorded"),
    processesFrozen: parseCount(body["processesFrozen"], "processesFrozen"),
    hooks: parseHookCounts(body["hooks"], "hooks"),
  };
}

/** @throws argument.invalid */
export function parseCancelResponse(value: unknown): CancelResponse {
  const body = parseObject(value, "cancel response");
  return { canceled: parseBoolean(body["canceled"], "canceled") };
}

function parseMs(value: unknown, what: string): number {
  return parseInteger(value, what, 0, Number.MAX_SAFE_INTEGER);
}

function parseCount(value: unknown, what: string): number {
  return parseInteger(value, what, 0, 1_000_000);
}

function parseHookCounts(value: unknown, what: string): HookCounts {
  const body = parseObject(value, what);
  return {
    run: parseCount(body["run"], `${what}.run`),
    failed: parseCount(body["failed"], `${what}.failed`),
  };
}

function parseMachineIdentity(value: unknown, what: string): MachineIdentity {
  const body = parseObject(value, what);
  return {
    hostname: parseMatch(body["hostname"], `${what}.hostname`, hostnamePattern),
    machineId: parseMatch(body["machineId"], `${what}.machineId`, machineIdPattern),
    bootId: parseMatch(body["bootId"], `${what}.bootId`, bootIdPattern),
  };
}

function parseMatch(value: unknown, what: string, pattern: RegExp): string {
  const text = parseString(value, what, 64);
  if (pattern.test(text)) return text;
  throw new TorporError("argument.invalid", `${what} must match ${pattern.source}`);
}
