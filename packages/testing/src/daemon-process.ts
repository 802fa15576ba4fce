/** A daemon in a process of its own, which a test can kill. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { fileURLToPath } from "node:url";
import { createInterface } from "node:readline";
import { Deadline, TorporError } from "@torpor/std";
import { DaemonApi } from "./daemon-api.ts";
import type { StateFolder } from "./state-folder.ts";

const startMs = 60_000;
const endMs = 30_000;
const productionMain = fileURLToPath(import.meta.resolve("@torpor/host/main"));
const supervisorMain = fileURLToPath(import.meta.resolve("@torpor/host/supervisor"));
const fakeVmMain = fileURLToPath(new URL("fake-vm-daemon.ts", import.meta.url));
const dyingMain = fileURLToPath(new URL("dying-daemon.ts", import.meta.url));

/** The place in an operation where the daemon kills itself. */
export interface DeathPoint {
  readonly moment: "before" | "after";
  readonly step: string;
}

/** Disposing kills the process. Its VMs are left to the state folder. */
export interface DaemonProcess extends AsyncDisposable {
  readonly pid: number;
  readonly api: DaemonApi;
  /** Kills the process with SIGKILL and waits for its end. Safe to repeat. */
  kill(): Promise<void>;
  /** Waits for the process to end by itself. */
  ended(): Promise<void>;
  /** Asks the process to end, and waits for that. Its VMs continue. */
  stop(): Promise<void>;
}

/**
 * Starts the real program over `state` and waits until it serves; with `diesAt`, a program that
 * differs only in killing itself there. It keeps no spares, unless `settings`, its environment,
 * asks for them.
 */
export async function spawnTestDaemon(
  state: StateFolder,
  diesAt?: DeathPoint,
  settings: Readonly<Record<string, string>> = {},
): Promise<DaemonProcess> {
  const argv = diesAt === undefined ? [productionMain] : [dyingMain, diesAt.moment, diesAt.step];
  return await spawnServing(state, argv, settings);
}

/**
 * Starts the same program under its supervisor, like `torpor up`; the process id is the
 * supervisor's.
 */
export async function spawnSupervisedDaemon(
  state: StateFolder,
  settings: Readonly<Record<string, string>>,
): Promise<DaemonProcess> {
  const supervised = await spawnServing(state, [supervisorMain], settings);
  // A killed supervisor would leave its daemon behind.
  return { ...supervised, [Symbol.asyncDispose]: () => supervised.stop() };
}

/**
 * Starts the same program over fake VMs, which end with it. `TORPOR_CACHE` must hold a template of
 * theirs.
 */
export async function spawnFakeVmDaemon(
  state: StateFolder,
  settings: Readonly<Record<string, string>>,
): Promise<DaemonProcess> {
  return await spawnServing(state, [fakeVmMain], settings);
}

async function spawnServing(
  state: StateFolder,
  argv: readonly string[],
  settings: Readonly<Record<string, string>>,
): Promise<DaemonProcess> {
  const child = spawn(process.execPath, argv, {
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      ...process.env,
      TORPOR_HOME: state.path,
      TORPOR_KEY_FILE: state.keyFile,
      TORPOR_PORT: "0",
      TORPOR_SPARES: "0",
      ...settings,
    },
  });
  const exited = once(child, "exit");
  const ended = async (): Promise<void> => {
    await Deadline.after(endMs, "waiting for the daemon to end").race(exited);
  };
  const kill = async (): Promise<void> => {
    child.kill("SIGKILL");
    await ended();
  };
  try {
    await Deadline.after(startMs, "starting the daemon").race(whenServing(child));
  } catch (cause) {
    await kill();
    throw cause;
  }
  return {
    pid: child.pid ?? 0,
    api: new DaemonApi(state.socketPath),
    kill,
    ended,
    stop: async () => {
      child.kill("SIGTERM");
      await ended();
    },
    [Symbol.asyncDispose]: kill,
  };
}

async function whenServing(child: ChildProcess): Promise<void> {
  const said: string[] = [];
  if (child.stderr === null) throw new TorporError("internal", "the daemon has no log");
  for await (const line of createInterface({ input: child.stderr })) {
    if (line.includes('"message":"serving"')) {
      child.stderr.resume(); // nothing else reads it, and a full pipe would block the daemon
      return;
    }
    said.push(line);
  }
  throw new TorporError("internal", `the daemon did not start: ${said.join("\n")}`);
}
