/** Reads the daemon's settings from its environment: every setting except its two folders. */
import { type NetworkKind, defaultNetworkKind } from "@torpor/network";
import { TorporError } from "@torpor/std";
import { type Environment, readSetting } from "@torpor/storage";
import type { UserIdRange } from "@torpor/vmm";
import type { ApiPolicy } from "./api/api-host.ts";
import type { TlsSettings } from "./edge/tls-listener.ts";
import { type PagerSettings, defaultPagerSettings } from "./pagers.ts";
import type { OnStop } from "./stop.ts";

const defaultPort = 7330;
const defaultTlsPort = 7443;
const loopback = "127.0.0.1";
const msPerHour = 3_600_000;
/**
 * A single request at a time then finds its sandbox ready; each spare keeps a VM process in memory.
 */
const defaultSpareCount = 1;

/** The settings of the daemon; see `DaemonOptions` and `stop.ts`. Undefined: not set. */
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

/**
 * Reads every setting and applies the defaults.
 * @throws argument.invalid with the name of the variable
 */
export function readDaemonEnv(env: Environment): DaemonEnv {
  return {
    port: readSetting(env, "TORPOR_PORT") ?? defaultPort,
    domain: readSetting(env, "TORPOR_DOMAIN"),
    tls: readTls(env),
    drainMs: readSetting(env, "TORPOR_DRAIN_MS"),
    spareCount: readSetting(env, "TORPOR_SPARES") ?? defaultSpareCount,
    networkKind: readSetting(env, "TORPOR_NETWORK") ?? defaultNetworkKind(),
    saveWhole: readSetting(env, "TORPOR_SAVE") === "whole",
    policy: readPolicy(env),
    userIds: readSetting(env, "TORPOR_USER_IDS"),
    pager: {
      use: readSetting(env, "TORPOR_PAGER") ?? defaultPagerSettings.use,
      prefetch: readSetting(env, "TORPOR_PREFETCH") ?? defaultPagerSettings.prefetch,
    },
    onStop: readSetting(env, "TORPOR_ON_STOP") ?? "leave",
  };
}

/** Leaves out the fields whose variable is not set. */
function readPolicy(env: Environment): Partial<ApiPolicy> {
  const hours = readSetting(env, "TORPOR_TIMEOUT_HOURS_MAX");
  const requestsMax = readSetting(env, "TORPOR_REQUESTS_MAX");
  return {
    ...(hours === undefined ? {} : { timeoutMsMax: hours * msPerHour }),
    ...(requestsMax === undefined ? {} : { requestsMax }),
  };
}

function readTls(env: Environment): TlsSettings | undefined {
  const certPath = readSetting(env, "TORPOR_TLS_CERT");
  const keyPath = readSetting(env, "TORPOR_TLS_KEY");
  const address = readSetting(env, "TORPOR_TLS_ADDRESS");
  const port = readSetting(env, "TORPOR_TLS_PORT");
  if (certPath !== undefined && keyPath !== undefined) {
    return { certPath, keyPath, address: address ?? loopback, port: port ?? defaultTlsPort };
  }
  const isAnySet = [certPath, keyPath, address, port].some((value) => value !== undefined);
  if (!isAnySet) return undefined;
  throw new TorporError("argument.invalid", "TLS needs TORPOR_TLS_CERT and TORPOR_TLS_KEY", {
    advice: "Set both, or unset every TORPOR_TLS_ variable.",
  });
}
