/**
 * One QEMU process: started detached so that it outlives the daemon, known by pid, start time and
 * boot id, ended by signal.
 *
 * WARNING: a pid alone can be reused by a stranger; every signal is preceded by a look at the start
 * time.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, readdirSync } from "node:fs";
import { open, readFile, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Deadline, TorporError, systemCode } from "@torpor/std";
import type { VmExit, VmHandle, VmProcess, VmSpec } from "../driver.ts";
import { runFiles } from "./command-line.ts";
import type { QemuProgram } from "./program.ts";

const endPollMs = 5;
/** LIMIT: how much of a log goes into the report of an exit. */
const exitTailBytes = 4096;

/** The part of a handle that names the process. */
type ProcessName = Pick<VmHandle, "pid" | "startTicks" | "bootId">;

export interface StartedProcess {
  readonly handle: VmHandle;
  readonly alive: () => boolean;
}

/** @throws vmm.missing when there is no QEMU to start. */
export function startProcess(
  { command, env }: QemuProgram,
  argv: readonly string[],
  spec: VmSpec,
): Promise<StartedProcess> {
  const [program, ...before] = command;
  const log = openSync(join(spec.runFolder, runFiles.log), "a", 0o600);
  const tap = spec.network.kind === "tap" ? [spec.network.tapFd] : [];
  const start = (): ReturnType<typeof spawn> =>
    spawn(program, [...before, ...argv], {
      detached: true,
      stdio: ["ignore", log, log, ...tap],
      env: { ...process.env, ...env },
    });
  let child: ReturnType<typeof spawn>;
  try {
    child = spec.network.kind === "tap" ? spec.network.inNamespace(start) : start();
  } finally {
    closeSync(log);
  }
  child.unref();
  const { promise, resolve, reject } = Promise.withResolvers<StartedProcess>();
  child.once("error", (cause) => {
    const missing = systemCode(cause) === "ENOENT";
    reject(
      missing
        ? new TorporError("vmm.missing", `${program} is not installed`, { cause })
        : TorporError.from(cause, "vmm.failed", `starting ${program}`),
    );
  });
  child.once("spawn", () => {
    const pid = child.pid ?? 0;
    const startTicks = readStartTicks(pid);
    if (startTicks === undefined) {
      reject(new TorporError("vmm.exited", "QEMU ended at once"));
      return;
    }
    const handle: VmHandle = {
      pid,
      startTicks,
      bootId: readBootId(),
      runFolder: spec.runFolder,
      memoryPath: spec.memoryPath,
      memoryMiB: spec.machine.memoryMiB,
    };
    resolve({ handle, alive: () => isAlive(handle) });
  });
  return promise;
}

/** True while the very process of the handle exists and is not a zombie. */
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

/** Looks through /proc for QEMU processes whose control socket lies below `folder`. */
export async function findProcesses(folder: string): Promise<readonly VmProcess[]> {
  const bootId = readBootId();
  const found: VmProcess[] = [];
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!Number.isInteger(pid)) continue;
    const runFolder = await readRunFolder(pid);
    const startTicks = readStartTicks(pid);
    if (runFolder === undefined || startTicks === undefined) continue;
    if (!runFolder.startsWith(`${folder}/`)) continue;
    const end = (deadline: Deadline): Promise<void> =>
      endProcess({ pid, startTicks, bootId }, deadline);
    found.push({ pid, runFolder, end });
  }
  return found;
}

/** The folder of the control socket on a QEMU command line, or undefined for any other process. */
async function readRunFolder(pid: number): Promise<string | undefined> {
  let argv: string[];
  try {
    argv = (await readFile(`/proc/${pid}/cmdline`, "utf8")).split("\0");
  } catch {
    return undefined; // ended while looking
  }
  if (!argv.some((argument) => argument.startsWith("torpor-"))) return undefined;
  const control = argv[argv.indexOf("-qmp") + 1] ?? "";
  const path = /^unix:(.*),server=on/.exec(control)?.[1]?.replaceAll(",,", ",");
  return path === undefined ? undefined : dirname(path);
}

export async function readExit(handle: VmHandle): Promise<VmExit> {
  return {
    consoleTail: await readTail(join(handle.runFolder, runFiles.console), exitTailBytes),
    vmmTail: await readTail(join(handle.runFolder, runFiles.log), exitTailBytes),
  };
}

/** The end of a log, which a guest may have made as long as it likes; empty when there is none. */
export async function readTail(path: string, bytesMax: number): Promise<string> {
  try {
    await using file = await open(path, "r");
    const { size } = await file.stat();
    const length = Math.min(size, bytesMax);
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.toString("utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return "";
    throw error;
  }
}

/**
 * Field 22 of /proc/PID/stat, or undefined when the process is gone or a zombie (proc(5)). One whose
 * first thread is a zombie but not its last still holds its memory and its files.
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
  // The program's name, field 2, may contain spaces and brackets; fields count after its last one.
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  const hasEnded = fields[0] === "X" || (fields[0] === "Z" && threadCount <= 1);
  return hasEnded ? undefined : Number(fields[19]);
}

function readBootId(): string {
  return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
}
