/**
 * The daemon as a program. Reads TORPOR_HOME, TORPOR_CACHE, TORPOR_PORT, TORPOR_NETWORK, TORPOR_SPARES,
 * TORPOR_TIMEOUT_HOURS_MAX and TORPOR_REQUESTS_MAX; logs one JSON object a line to standard error. SIGTERM and SIGINT end it and leave the VMs running.
 */
import { once } from "node:events";
import { type NetworkKind, defaultNetworkKind } from "@torpor/network";
import { TorporError, jsonLogger, parseInteger } from "@torpor/std";
import { defaultCacheFolder, defaultStateFolder } from "@torpor/storage";
import type { ApiPolicy } from "./api/api-host.ts";
import { startDaemon } from "./daemon.ts";

const defaultPort = 7330;
/** One request at a time finds its sandbox ready; each spare keeps a VM process in memory. */
const defaultSpareCount = 1;
const spareCountMax = 100;
/** LIMIT: ten years; more is "never". */
const timeoutHoursMax = 10 * 365 * 24;
const msPerHour = 3_600_000;
const requestsLimit = 100_000_000;

const log = jsonLogger((line) => process.stderr.write(line));
try {
  await using daemon = await startDaemon({
    stateFolder: defaultStateFolder(),
    cacheFolder: defaultCacheFolder(),
    port: parsePort(process.env["TORPOR_PORT"]),
    spareCount: parseSpareCount(process.env["TORPOR_SPARES"]),
    networkKind: parseNetwork(process.env["TORPOR_NETWORK"]),
    policy: {
      ...parsePolicy("timeoutMsMax", "TORPOR_TIMEOUT_HOURS_MAX", 1, timeoutHoursMax, msPerHour),
      ...parsePolicy("requestsMax", "TORPOR_REQUESTS_MAX", 0, requestsLimit, 1),
    },
    log,
  });
  log.info("serving", { url: daemon.url, socket: daemon.socketPath });
  const signals = ["SIGTERM", "SIGINT"].map((name) => once(process, name).then(() => name));
  log.info("ending; the VMs go on running", { signal: await Promise.race(signals) });
} catch (cause) {
  const error = TorporError.from(cause, "internal");
  log.error(error.rawMessage, { code: error.code, advice: error.advice, cause });
  process.exitCode = 1;
}
// Nothing is left to do: a handle that somebody forgot must not keep the state folder's next daemon out.
process.exit();

function parsePort(text: string | undefined): number {
  return text === undefined ? defaultPort : parseInteger(Number(text), "TORPOR_PORT", 0, 65_535);
}

function parseSpareCount(text: string | undefined): number {
  if (text === undefined) return defaultSpareCount;
  return parseInteger(Number(text), "TORPOR_SPARES", 0, spareCountMax);
}

/** Nothing for a variable that is not set. */
function parsePolicy(
  field: keyof ApiPolicy,
  variable: string,
  min: number,
  max: number,
  unit: number,
): Partial<ApiPolicy> {
  const text = process.env[variable];
  return text === undefined
    ? {}
    : { [field]: parseInteger(Number(text), variable, min, max) * unit };
}

function parseNetwork(text: string | undefined): NetworkKind {
  if (text === undefined) return defaultNetworkKind();
  if (text === "namespace" || text === "user") return text;
  throw new TorporError("argument.invalid", "TORPOR_NETWORK must be namespace or user");
}
