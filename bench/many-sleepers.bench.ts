/**
 * The cost of sleeping sandboxes for a daemon: processor time at its start, until it is idle, and
 * the time of a removal while there are many others. Their rows and snapshots are real; their
 * memory is a few bytes.
 *
 *     BENCH_OTHER_CHECKOUT=/path/to/another/checkout      measures that build beside this one
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { stateFiles } from "@torpor/storage";
import { DaemonApi } from "@torpor/testing";
import { endChild } from "./child.ts";
import { type Row, atMost, median } from "./row.ts";
import { timed } from "./timing.ts";

const thisCheckout = join(import.meta.dirname, "..");
/** In memory, so that the disk is not measured. */
const folderInMemory = "/dev/shm";
const few = 1_000;
const many = 10_000;
const removals = 15;
const starts = 5;
/** A daemon is idle when it has used no more than a tick of its processor for this time. */
const restMs = 1_500;
const msPerTick = 10;
/** Long enough for all periodic work of the daemon to run once or twice. */
const idleMs = 20_000;

interface Cost {
  /** Processor time of the whole process, from its start. */
  readonly startCpuMs: number;
  readonly removalMs: number;
  readonly residentMiB: number;
  /** Processor time in a second without requests. */
  readonly idleCpuMs: number;
}

/** Measures this build, and another one if it is named. */
export async function measureManySleepers(): Promise<readonly Row[]> {
  const own = await measureBuild(thisCheckout);
  const rows: Row[] = [
    ...rowsOf("", own),
    atMost(
      "10,000 sleepers' part of a start",
      addedCpuMs(own) / own.none.startCpuMs,
      "of a start over none",
      0.5,
    ),
    atMost(
      "removal among 10,000 sleepers against 1,000",
      own.many.removalMs / own.few.removalMs,
      "times as long",
      1.5,
    ),
  ];
  const other = process.env["BENCH_OTHER_CHECKOUT"];
  if (other === undefined) return rows;
  const beside = await measureBuild(other);
  const ratio = addedCpuMs(own) / addedCpuMs(beside);
  return [
    ...rows,
    ...rowsOf("other build: ", beside),
    {
      row: "10,000 sleepers' part of a start against the other build",
      value: ratio,
      unit: "of it",
    },
  ];
}

function addedCpuMs({ many: most, none }: Costs): number {
  return most.startCpuMs - none.startCpuMs;
}

type Costs = Readonly<Record<"none" | "few" | "many", Cost>>;

function rowsOf(label: string, { none, few: some, many: most }: Costs): readonly Row[] {
  return [
    { row: `${label}start over no sandbox, processor time`, value: none.startCpuMs, unit: "ms" },
    { row: `${label}start over 1,000 sleepers`, value: some.startCpuMs, unit: "ms" },
    { row: `${label}start over 10,000 sleepers`, value: most.startCpuMs, unit: "ms" },
    { row: `${label}memory over 10,000 sleepers`, value: most.residentMiB, unit: "MiB" },
    { row: `${label}a second at rest over 10,000 sleepers`, value: most.idleCpuMs, unit: "ms" },
    { row: `${label}removal among 1,000 sleepers`, value: some.removalMs, unit: "ms" },
    { row: `${label}removal among 10,000 sleepers`, value: most.removalMs, unit: "ms" },
  ];
}

async function measureBuild(checkout: string): Promise<Costs> {
  return {
    none: await measureCost(checkout, 0),
    few: await measureCost(checkout, few),
    many: await measureCost(checkout, many),
  };
}

async function measureCost(checkout: string, count: number): Promise<Cost> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.adopt(await mkdtemp(join(folderInMemory, "torpor-bench-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
  const state = join(folder, "state");
  const cache = join(folder, "cache");
  const ids = await writeSleepers([checkout, state, cache, String(count)]);
  const startCpuMs: number[] = [];
  while (startCpuMs.length < starts - 1) {
    await using daemon = await startBuild(checkout, state, cache);
    startCpuMs.push(await cpuMsAtRest(daemon.child));
  }
  await using daemon = await startBuild(checkout, state, cache);
  startCpuMs.push(await cpuMsAtRest(daemon.child));
  const residentMiB = await residentMiBOf(daemon.child);
  const idleCpuMs = await idleCpuMsOf(daemon.child);
  const api = new DaemonApi(join(state, stateFiles.socket));
  const times: number[] = [];
  for (const id of ids.slice(0, removals)) {
    times.push(await timed(async () => void (await api.exchange("DELETE", `/sandboxes/${id}`))));
  }
  return { startCpuMs: median(startCpuMs), removalMs: median(times), residentMiB, idleCpuMs };
}

async function writeSleepers(argv: readonly string[]): Promise<readonly string[]> {
  const program = join(import.meta.dirname, "write-sleepers.ts");
  const child = spawn(process.execPath, [program, ...argv], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ids: string[] = [];
  for await (const line of createInterface({ input: child.stdout })) ids.push(line);
  return ids.filter((id) => id !== "");
}

interface StartedDaemon extends AsyncDisposable {
  readonly child: ChildProcess;
}

async function startBuild(checkout: string, state: string, cache: string): Promise<StartedDaemon> {
  const child = spawn(process.execPath, [join(checkout, "packages/host/src/main.ts")], {
    stdio: ["ignore", "ignore", "pipe"],
    env: {
      ...process.env,
      TORPOR_HOME: state,
      TORPOR_CACHE: cache,
      TORPOR_KEY_FILE: join(cache, "host.key"),
      TORPOR_PORT: "0",
      TORPOR_SPARES: "0",
    },
  });
  const served = Promise.withResolvers<void>();
  const said: string[] = [];
  createInterface({ input: child.stderr }).on("line", (line) => {
    said.push(line);
    if (line.includes('"message":"serving"')) served.resolve();
  });
  void once(child, "exit").then(() => served.reject(new Error(said.slice(-5).join("\n"))));
  await served.promise;
  return { child, [Symbol.asyncDispose]: () => endChild(child, "SIGTERM") };
}

/** The processor time used once the daemon is idle: its work after it serves counts too. */
async function cpuMsAtRest({ pid }: ChildProcess): Promise<number> {
  let before = -1;
  for (;;) {
    const ticks = await ticksOf(pid ?? 0);
    if (ticks - before <= 1) return ticks * msPerTick;
    before = ticks;
    await sleep(restMs);
  }
}

async function idleCpuMsOf({ pid }: ChildProcess): Promise<number> {
  const before = await ticksOf(pid ?? 0);
  await sleep(idleMs);
  return (((await ticksOf(pid ?? 0)) - before) * msPerTick * 1_000) / idleMs;
}

/**
 * User and system time: fields 14 and 15, after a name that may hold anything (proc_pid_stat(5)).
 */
async function ticksOf(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

async function residentMiBOf({ pid }: ChildProcess): Promise<number> {
  const text = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/VmRSS:\s+(\d+) kB/.exec(text)?.[1]) / 1024;
}
