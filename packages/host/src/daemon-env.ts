/** What the daemon's program reads from its environment: every TORPOR_ variable but the two folders. */
import { type NetworkKind, defaultNetworkKind } from "@torpor/network";
import { prefetchModes } from "@torpor/pager";
import { TorporError, parseInteger, parseOneOf } from "@torpor/std";
import type { UserIdRange } from "@torpor/vmm";
import type { ApiPolicy } from "./api/api-host.ts";
import type { TlsSettings } from "./edge/tls-listener.ts";
import { type PagerSettings, defaultPagerSettings, pagerUses } from "./pagers.ts";
import type { OnStop } from "./stop.ts";

const defaultPort = 7330;
const defaultTlsPort = 7443;
const loopback = "127.0.0.1";
const portMax = 65_535;
const drainMsMax = 60_000;
/** LIMIT: what Node takes for a user id. */
const userIdMax = 2 ** 31 - 1;
/** LIMIT: ten years; more is "never". */
const timeoutHoursMax = 10 * 365 * 24;
const msPerHour = 3_600_000;
const requestsLimit = 100_000_000;
/** Labels of letters, digits and hyphens, with dots between them. */
const domainPattern = /^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/i;
/** One request at a time finds its sandbox ready; each spare keeps a VM process in memory. */
const defaultSpareCount = 1;
const spareCountMax = 100;

export interface DaemonEnv {
  readonly port: number;
  readonly domain: string | undefined;
  readonly tls: TlsSettings | undefined;
  readonly drainMs: number | undefined;
  readonly spareCount: number;
  readonly networkKind: NetworkKind;
  readonly saveWhole: boolean;
  readonly policy: Partial<ApiPolicy>;
  readonly userIds: UserIdRange | undefined;
  readonly pager: PagerSettings;
  readonly onStop: OnStop;
}

/** @throws argument.invalid with the name of the variable */
export function readDaemonEnv(env: NodeJS.ProcessEnv): DaemonEnv {
  return {
    port: readCount(env, "TORPOR_PORT", portMax) ?? defaultPort,
    domain: readDomain(env),
    tls: readTls(env),
    drainMs: readCount(env, "TORPOR_DRAIN_MS", drainMsMax),
    spareCount: readCount(env, "TORPOR_SPARES", spareCountMax) ?? defaultSpareCount,
    networkKind: readWord(env, "TORPOR_NETWORK", ["namespace", "user"]) ?? defaultNetworkKind(),
    saveWhole: readWord(env, "TORPOR_SAVE", ["layers", "whole"]) === "whole",
    policy: readPolicy(env),
    userIds: readUserIds(env),
    pager: {
      use: readWord(env, "TORPOR_PAGER", pagerUses) ?? defaultPagerSettings.use,
      prefetch: readWord(env, "TORPOR_PREFETCH", prefetchModes) ?? defaultPagerSettings.prefetch,
    },
    onStop: readWord(env, "TORPOR_ON_STOP", ["leave", "pause"]) ?? "leave",
  };
}

function readCount(env: NodeJS.ProcessEnv, name: string, max: number): number | undefined {
  const text = env[name];
  return text === undefined ? undefined : parseInteger(Number(text), name, 0, max);
}

/** Nothing for a variable that is not set. */
function readPolicy(env: NodeJS.ProcessEnv): Partial<ApiPolicy> {
  const hours = readCount(env, "TORPOR_TIMEOUT_HOURS_MAX", timeoutHoursMax);
  const requestsMax = readCount(env, "TORPOR_REQUESTS_MAX", requestsLimit);
  return {
    ...(hours === undefined ? {} : { timeoutMsMax: hours * msPerHour }),
    ...(requestsMax === undefined ? {} : { requestsMax }),
  };
}

/** "FIRST-LAST", both included; users of no account, for one VM process each. */
function readUserIds(env: NodeJS.ProcessEnv): UserIdRange | undefined {
  const name = "TORPOR_USER_IDS";
  const text = env[name];
  if (text === undefined) return undefined;
  const [, from, to] = /^(\d+)-(\d+)$/.exec(text) ?? [];
  const first = parseInteger(Number(from), name, 1, userIdMax);
  const last = parseInteger(Number(to), name, first, userIdMax);
  return { first, count: last - first + 1 };
}

function readDomain(env: NodeJS.ProcessEnv): string | undefined {
  const text = env["TORPOR_DOMAIN"];
  if (text === undefined || domainPattern.test(text)) return text;
  throw new TorporError("argument.invalid", "TORPOR_DOMAIN must be a host name");
}

function readTls(env: NodeJS.ProcessEnv): TlsSettings | undefined {
  const certPath = env["TORPOR_TLS_CERT"];
  const keyPath = env["TORPOR_TLS_KEY"];
  if (certPath === undefined && keyPath === undefined) return undefined;
  if (certPath === undefined || keyPath === undefined) {
    throw new TorporError("argument.invalid", "TORPOR_TLS_CERT and TORPOR_TLS_KEY go together");
  }
  return {
    certPath,
    keyPath,
    address: env["TORPOR_TLS_ADDRESS"] ?? loopback,
    port: readCount(env, "TORPOR_TLS_PORT", portMax) ?? defaultTlsPort,
  };
}

function readWord<T extends string>(
  env: NodeJS.ProcessEnv,
  name: string,
  words: readonly T[],
): T | undefined {
  const text = env[name];
  return text === undefined ? undefined : parseOneOf(text, name, words);
}
