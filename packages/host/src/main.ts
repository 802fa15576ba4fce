/**
 * The daemon as a program. Reads TORPOR_HOME, TORPOR_CACHE, TORPOR_PORT, TORPOR_NETWORK, TORPOR_SPARES
 * and TORPOR_USER_IDS; logs one JSON object a line to standard error. SIGTERM and SIGINT end it and leave the VMs running.
 */
import { once } from "node:events";
import { type NetworkKind, defaultNetworkKind } from "@torpor/network";
import { TorporError, jsonLogger, parseInteger } from "@torpor/std";
import { defaultCacheFolder, defaultStateFolder } from "@torpor/storage";
import type { UserIdRange } from "@torpor/vmm";
import { startDaemon } from "./daemon.ts";

const defaultPort = 7330;
/** One request at a time finds its sandbox ready; each spare keeps a VM process in memory. */
const defaultSpareCount = 1;
const spareCountMax = 100;
/** LIMIT: what Node takes for a user id. */
const userIdMax = 2 ** 31 - 1;

const log = jsonLogger((line) => process.stderr.write(line));
try {
  await using daemon = await startDaemon({
    stateFolder: defaultStateFolder(),
    cacheFolder: defaultCacheFolder(),
    port: parsePort(process.env["TORPOR_PORT"]),
    spareCount: parseSpareCount(process.env["TORPOR_SPARES"]),
    networkKind: parseNetwork(process.env["TORPOR_NETWORK"]),
    userIds: parseUserIds(process.env["TORPOR_USER_IDS"]),
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

function parseNetwork(text: string | undefined): NetworkKind {
  if (text === undefined) return defaultNetworkKind();
  if (text === "namespace" || text === "user") return text;
  throw new TorporError("argument.invalid", "TORPOR_NETWORK must be namespace or user");
}

/** "FIRST-LAST", both included; users of no account, for one VM process each. */
function parseUserIds(text: string | undefined): UserIdRange | undefined {
  if (text === undefined) return undefined;
  const what = "TORPOR_USER_IDS";
  const [, from, to] = /^(\d+)-(\d+)$/.exec(text) ?? [];
  const first = parseInteger(Number(from), what, 1, userIdMax);
  const last = parseInteger(Number(to), what, first, userIdMax);
  return { first, count: last - first + 1 };
}
