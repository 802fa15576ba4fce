/**
 * The processes of VMs, under any VMM: identified by pid, start time and boot id, ended by signal,
 * and found again by their command lines.
 *
 * WARNING: a pid alone can be reused by another program; every signal is preceded by a check of the
 * start time.
 */
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { type Deadline, systemCode } from "@torpor/std";
import type { ProcessName, VmExit, VmHandle, VmProcess } from "./driver.ts";
import { readTail, runFiles } from "./run-files.ts";

export type { ProcessName } from "./driver.ts";

const endPollMs = 1;
/** LIMIT: processes looked at before others get a turn; some milliseconds of work. */
const lookedAtInTurn = 256;
/** LIMIT: bytes of a log that go into the report of an exit. */
const exitTailBytes = 4096;

/**
 * The part of a command line that matters: the run that the process belongs to, and whether it is
 * the VMM itself.
 */
export interface RecognisedProcess {
  readonly runFolder: string;
  readonly isVmm: boolean;
}

/** Recognises a process by its arguments. @returns undefined if it belongs to no VM. */
export type Recognise = (argv: readonly string[]) => RecognisedProcess | undefined;

/** Identifies a process by its pid; undefined if there is none. */
export function nameProcess(pid: number): ProcessName | undefined {
  const startTicks = readStartTicks(pid);
  return startTicks === undefined ? undefined : { pid, startTicks, bootId: readBootId() };
}

/** Whether both identify one process: a pid alone may have been reused. */
export function isSameProcess(one: ProcessName, other: ProcessName): boolean {
  return (
    one.pid === other.pid && one.startTicks === other.startTicks && one.bootId === other.bootId
  );
}

/** Whether the process of the handle still exists and is not a zombie. */
export function isAlive(handle: ProcessName): boolean {
  return handle.bootId === readBootId() && readStartTicks(handle.pid) === handle.startTicks;
}

/** Kills the process and waits until it is gone. Safe to repeat. */
export async function endProcess(handle: ProcessName, deadline: Deadline): Promise<void> {
  while (isAlive(handle)) {
    try {
      process.kill(handle.pid, "SIGKILL");
    } catch (error) {
      if (systemCode(error) !== "ESRCH") throw error;
    }
    deadline.check();
    await deadline.sleep(endPollMs);
  }
}

/**
 * Searches /proc for the processes of VMs whose run folder lies below `folder`; returns one for
 * each run. A resume waits for this: reads are synchronous, because a trip through the thread pool
 * for each process of the machine costs many times the read. Other work gets a turn regularly.
 */
export async function findProcesses(
  folder: string,
  recognise: Recognise,
): Promise<readonly VmProcess[]> {
  const byRun = new Map<string, { readonly name: ProcessName; readonly isVmm: boolean }[]>();
  const pids = readdirSync("/proc").map(Number).filter(Number.isInteger);
  for (const [index, pid] of pids.entries()) {
    if (index % lookedAtInTurn === lookedAtInTurn - 1) await yieldToOthers();
    const recognised = recognise(readArguments(pid));
    if (recognised === undefined) continue;
    const { runFolder, isVmm } = recognised;
    if (!runFolder.startsWith(`${folder}/`)) continue;
    const name = nameProcess(pid);
    if (name === undefined) continue;
    byRun.set(runFolder, [...(byRun.get(runFolder) ?? []), { name, isVmm }]);
  }
  return [...byRun].flatMap(([runFolder, processes]) => {
    // The record of a run names its VMM.
    const { name } = processes.find(({ isVmm }) => isVmm) ?? processes[0] ?? {};
    if (name === undefined) return [];
    const end = async (deadline: Deadline): Promise<void> => {
      for (const one of processes) await endProcess(one.name, deadline);
    };
    return [{ ...name, runFolder, end }];
  });
}

/** Empty for a process that has ended in the meantime. */
function readArguments(pid: number): readonly string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
  } catch {
    return [];
  }
}

/** Reads the ends of a VM's console and VMM log. */
export async function readExit(handle: Pick<VmHandle, "runFolder">): Promise<VmExit> {
  return {
    consoleTail: await readTail(join(handle.runFolder, runFiles.console), exitTailBytes),
    vmmTail: await readTail(join(handle.runFolder, runFiles.log), exitTailBytes),
  };
}

/**
 * Field 22 of /proc/PID/stat, or undefined if the process is gone or a zombie (proc(5)). A process
 * whose first thread is a zombie but not its last still holds its memory and its files.
 */
function readStartTicks(pid: number): number | undefined {
  let stat: string;
  let threadCount: number;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    threadCount = readdirSync(`/proc/${pid}/task`).length;
  } catch {
    return undefined;
  }
  // The program's name, field 2, may contain spaces and brackets; count fields after its last
  // bracket.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const hasEnded = fields[0] === "X" || (fields[0] === "Z" && threadCount <= 1);
  return hasEnded ? undefined : Number(fields[19]);
}

function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
