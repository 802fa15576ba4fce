/** What the daemon's program reads from its environment: every TORPOR_ variable but the two folders. */
import { type NetworkKind, defaultNetworkKind } from "@torpor/network";
import { parseInteger, parseOneOf } from "@torpor/std";
import type { OnStop } from "./stop.ts";

const defaultPort = 7330;
/** One request at a time finds its sandbox ready; each spare keeps a VM process in memory. */
const defaultSpareCount = 1;
const spareCountMax = 100;

export interface DaemonEnv {
  readonly port: number;
  readonly spareCount: number;
  readonly networkKind: NetworkKind;
  readonly saveWhole: boolean;
  readonly onStop: OnStop;
}

/** @throws argument.invalid with the name of the variable */
export function readDaemonEnv(env: NodeJS.ProcessEnv): DaemonEnv {
  return {
    port: readCount(env, "TORPOR_PORT", defaultPort, 65_535),
    spareCount: readCount(env, "TORPOR_SPARES", defaultSpareCount, spareCountMax),
    networkKind: readWord(env, "TORPOR_NETWORK", ["namespace", "user"]) ?? defaultNetworkKind(),
    saveWhole: readWord(env, "TORPOR_SAVE", ["layers", "whole"]) === "whole",
    onStop: readWord(env, "TORPOR_ON_STOP", ["leave", "pause"]) ?? "leave",
  };
}

function readCount(env: NodeJS.ProcessEnv, name: string, otherwise: number, max: number): number {
  const text = env[name];
  return text === undefined ? otherwise : parseInteger(Number(text), name, 0, max);
}

function readWord<T extends string>(
  env: NodeJS.ProcessEnv,
  name: string,
  words: readonly T[],
): T | undefined {
  const text = env[name];
  return text === undefined ? undefined : parseOneOf(text, name, words);
}
