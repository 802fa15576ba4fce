/**
 * The private routes between host and guest agent: readiness, init, prepare, cancel.
 *
 * All are served on the agent's port. Everything but `GET /health` needs the host key in
 * `hostKeyHeader` once one is installed; the edge never forwards these paths from outside. The
 * first `init` after a restore replaces the template's key with the sandbox's own.
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
/**
 * Address of every guest. All have the same one; a network namespace per sandbox keeps them apart.
 */
export const guestAddress = "169.254.0.21";
/** The guest's default gateway: the host's end of the link. */
export const gatewayAddress = "169.254.0.22";
/** Length of the prefix of the link's network: two addresses, guest and gateway. */
export const guestPrefixBits = 30;
/** MAC of every guest, locally administered. */
export const guestMac = "02:54:4f:52:50:52";
/** The five constants above as one object, for the network's set-up. */
export const guestAddressing = {
  guestAddress,
  gatewayAddress,
  guestPrefixBits,
  guestMac,
  agentPort,
} as const;

/** Request header with the key that authorises the host's private routes and tunnels. */
export const hostKeyHeader = "x-torpor-host-key";
/** Request header with the sandbox's access token, as in the E2B wire. */
export const accessTokenHeader = "x-access-token";
/**
 * Header of the answer to `GET /health`: the guest's CLOCK_MONOTONIC in milliseconds, with
 * decimals.
 */
export const monotonicHeader = "torpor-monotonic-ms";

/** `GET` answers 204 as soon as the agent serves; needs no key. */
export const healthRoute = "/health";
/** `POST` an `InitRequest`: makes the guest right again after a boot or a restore. */
export const initRoute = "/init";
/** `POST` a `PrepareRequest`: quiesces the guest for a snapshot. */
export const prepareRoute = "/snapshot/prepare";
/** `POST`: undoes a prepare. */
export const cancelRoute = "/snapshot/cancel";
/**
 * Host name of a tunnel. `CONNECT localhost:<port>` on the agent's port, with the host key, asks
 * for a connection to a port that only the guest itself can reach. 200: bytes pass from there on;
 * 502: nobody listens there. The edge forwards no client's CONNECT.
 */
export const tunnelHost = "localhost";
/** Paths on the agent's port that are for the host alone; the edge answers 404 for them. */
export const privateRoutes: readonly string[] = [initRoute, prepareRoute, cancelRoute];

/** LIMIT: the largest init body; environment variables are the only part that grows. */
export const initBodyBytesMax = 1 << 20;
/** Bytes of entropy the host sends on every init: twice what the kernel's generator keys with. */
export const entropyBytes = 64;

/**
 * Why the host wakes a guest. `create`: a new sandbox from a template; `fork`: a new sandbox from
 * the memory of another; `resume`: the same sandbox continues.
 */
export type WakeReason = "create" | "fork" | "resume";

/**
 * Why the host prepares a guest. `pause`: its VM ends and a later one continues. `checkpoint`:
 * `cancel` lets the guest itself continue, with its connections, and other sandboxes may be made
 * from what is saved.
 */
export type PrepareReason = "pause" | "checkpoint";

/**
 * The names that tell one machine from another. The host draws them, so no two guests ever share
 * one.
 */
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
  /** A new sandbox takes this identity on; null keeps the one the guest has. */
  readonly machine: MachineIdentity | null;
  /** How long the guest lay on disk, in milliseconds; hooks inside it may read this. */
  readonly suspendedMs: number;
  /** Generation of this restore; the agent refuses a smaller one than it has seen. */
  readonly generation: number;
  /** Fresh random bytes from the host, base64, `entropyBytes` long. */
  readonly entropy: string;
  /** Wall clock of the host, milliseconds since 1970, at the instant of `timestampMonoMs`. */
  readonly timestampMs: number;
  /**
   * The guest's monotonic clock when the host's wall clock read `timestampMs`, so that the time the
   * request travels does not matter. If absent, the agent uses the moment the request arrives.
   */
  readonly timestampMonoMs?: number | undefined;
  /** Replaces the key that authorises private routes. */
  readonly hostKey: string;
  readonly sandboxId: string;
  readonly templateId: string;
  /** Clients must send it in `X-Access-Token` from now on; null: the agent demands no token. */
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
  /** Other TCP connections of the guest whose far end is gone; those over loopback are kept. */
  readonly socketsDestroyed: number;
  /** Counts of `post-restore.d`. */
  readonly hooks: HookCounts;
}

/** How many hooks of one moment ran in the guest, and how many failed. */
export interface HookCounts {
  readonly run: number;
  /** Hooks among them that ended with another status than 0 or were killed at their deadline. */
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
  /** Counts of `pre-snapshot.d`. */
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
/** Linux and machine-id(5) accept these; a name goes into files that programs read line by line. */
const hostnamePattern = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
const machineIdPattern = /^[0-9a-f]{32}$/;
const bootIdPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/** Parses the body of `POST /init`. @throws argument.invalid */
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

/** Parses the agent's answer to init: hostile input too. @throws argument.invalid */
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

/** Parses the body of `POST /snapshot/prepare`. @throws argument.invalid */
export function parsePrepareRequest(value: unknown): PrepareRequest {
  const body = parseObject(value, "prepare");
  return { reason: parseOneOf(body["reason"], "reason", prepareReasons) };
}

/** Parses the agent's answer to prepare. @throws argument.invalid */
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

/** Parses the agent's answer to cancel. @throws argument.invalid */
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
