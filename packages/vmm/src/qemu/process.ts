/**
 * One QEMU process: started detached so that it outlives the daemon, known by pid, start time and
 * boot id, ended by signal.
 *
 * WARNING: a pid alone can be reused by a stranger; every signal is preceded by a look at the start
 * time.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync, readFileSync, readdirSync } from "node:fs";
import { readFile, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Deadline, TorporError, systemCode } from "@torpor/std";
import type { VmExit, VmHandle, VmProcess, VmSpec } from "../driver.ts";
import type { Confinement } from "./confinement.ts";
import type { QemuProgram } from "./program.ts";
import { readTail, runFiles } from "./run-files.ts";

const endPollMs = 5;
const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/** LIMIT: how much of a log goes into the report of an exit. */
const exitTailBytes = 4096;

/** The part of a handle that names the process. */
type ProcessName = Pick<VmHandle, "pid" | "startTicks" | "bootId">;

export interface StartedProcess {
  readonly handle: VmHandle;
  readonly alive: () => boolean;
}

/**
 * @param confinement Undefined: it is what the daemon is, and sees what the daemon sees.
 * @throws vmm.missing when there is no QEMU to start.
 */
export function startProcess(
  program: QemuProgram,
  argv: readonly string[],
  spec: VmSpec,
  confinement: Confinement | undefined,
): Promise<StartedProcess> {
  const child = spawnQemu(program, argv, spec, confinement);
  const { promise, resolve, reject } = Promise.withResolvers<StartedProcess>();
  let cgroup: string | undefined;
  try {
    if (child.pid !== undefined) cgroup = confinement?.limit(child.pid);
  } catch (cause) {
    child.kill("SIGKILL");
    reject(TorporError.from(cause, "vmm.failed", "limiting QEMU"));
  }
  child.unref();
  child.once("error", (cause) => {
    const missing = systemCode(cause) === "ENOENT";
    reject(
      missing
        ? new TorporError("vmm.missing", `${program.command[0]} is not installed`, { cause })
        : TorporError.from(cause, "vmm.failed", `starting ${program.command[0]}`),
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
      ...(confinement === undefined ? {} : { userId: confinement.userId }),
      ...(cgroup === undefined ? {} : { cgroup }),
    };
    resolve({ handle, alive: () => isAlive(handle) });
  });
  return promise;
}

function spawnQemu(
  { command, env }: QemuProgram,
  argv: readonly string[],
  { runFolder, network }: VmSpec,
  confinement: Confinement | undefined,
): ChildProcess {
  const [program, ...before] = command;
  using files = new DisposableStack();
  const log = files.adopt(openSync(join(runFolder, runFiles.log), "a", 0o600), closeSync);
  // Opened here: there is no /dev where a confined one starts.
  const nothing = files.adopt(openSync("/dev/null", "r"), closeSync);
  const tap = network.kind === "tap" ? [network.tapFd] : [];
  const lock = confinement === undefined ? [] : [confinement.lockFd];
  const start = (): ChildProcess =>
    spawn(program, [...before, ...argv], {
      detached: true,
      stdio: [nothing, log, log, ...tap, ...lock],
      ...(confinement === undefined
        ? { env: { ...process.env, ...env } }
        : {
            uid: confinement.userId,
            gid: confinement.groupId,
            // What the daemon's holds is none of its business.
            env: { PATH: systemPath, ...env },
          }),
    });
  const inView = (): ChildProcess =>
    confinement === undefined ? start() : confinement.start(start);
  return network.kind === "tap" ? network.inNamespace(inView) : inView();
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
