/**
 * The daemon as a program. Reads TORPOR_HOME, TORPOR_CACHE, TORPOR_PORT, TORPOR_NETWORK, TORPOR_SPARES,
 * TORPOR_DOMAIN, TORPOR_DRAIN_MS and TORPOR_TLS_CERT, _KEY, _PORT and _ADDRESS; logs one JSON object a line to standard error. SIGTERM and SIGINT end it and leave the VMs running.
 */
import { once } from "node:events";
import { type NetworkKind, defaultNetworkKind } from "@torpor/network";
import { TorporError, jsonLogger, parseInteger } from "@torpor/std";
import { defaultCacheFolder, defaultStateFolder } from "@torpor/storage";
import { startDaemon } from "./daemon.ts";
import type { TlsSettings } from "./edge/tls-listener.ts";

const defaultPort = 7330;
const defaultTlsPort = 7443;
const loopback = "127.0.0.1";
const drainMsMax = 60_000;
/** Labels of letters, digits and hyphens, with dots between them. */
const domainPattern = /^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/i;
/** One request at a time finds its sandbox ready; each spare keeps a VM process in memory. */
const defaultSpareCount = 1;
const spareCountMax = 100;

const log = jsonLogger((line) => process.stderr.write(line));
try {
  await using daemon = await startDaemon({
    stateFolder: defaultStateFolder(),
    cacheFolder: defaultCacheFolder(),
    port: parsePort("TORPOR_PORT") ?? defaultPort,
    domain: parseDomain(process.env["TORPOR_DOMAIN"]),
    tls: parseTls(),
    drainMs: parseDrainMs(process.env["TORPOR_DRAIN_MS"]),
    spareCount: parseSpareCount(process.env["TORPOR_SPARES"]),
    networkKind: parseNetwork(process.env["TORPOR_NETWORK"]),
    log,
  });
  const { url, tlsUrl, socketPath } = daemon;
  log.info("serving", { url, tlsUrl, socket: socketPath });
  const signals = ["SIGTERM", "SIGINT"].map((name) => once(process, name).then(() => name));
  log.info("ending; the VMs go on running", { signal: await Promise.race(signals) });
} catch (cause) {
  const error = TorporError.from(cause, "internal");
  log.error(error.rawMessage, { code: error.code, advice: error.advice, cause });
  process.exitCode = 1;
}
// Nothing is left to do: a handle that somebody forgot must not keep the state folder's next daemon out.
process.exit();

function parsePort(name: string): number | undefined {
  const text = process.env[name];
  return text === undefined ? undefined : parseInteger(Number(text), name, 0, 65_535);
}

function parseDomain(text: string | undefined): string | undefined {
  if (text === undefined || domainPattern.test(text)) return text;
  throw new TorporError("argument.invalid", "TORPOR_DOMAIN must be a host name");
}

function parseDrainMs(text: string | undefined): number | undefined {
  if (text === undefined) return undefined;
  return parseInteger(Number(text), "TORPOR_DRAIN_MS", 0, drainMsMax);
}

function parseTls(): TlsSettings | undefined {
  const certPath = process.env["TORPOR_TLS_CERT"];
  const keyPath = process.env["TORPOR_TLS_KEY"];
  if (certPath === undefined && keyPath === undefined) return undefined;
  if (certPath === undefined || keyPath === undefined) {
    throw new TorporError("argument.invalid", "TORPOR_TLS_CERT and TORPOR_TLS_KEY go together");
  }
  return {
    certPath,
    keyPath,
    address: process.env["TORPOR_TLS_ADDRESS"] ?? loopback,
    port: parsePort("TORPOR_TLS_PORT") ?? defaultTlsPort,
  };
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
