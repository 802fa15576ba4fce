/** Starts one QEMU process, detached so that it outlives the daemon. */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { TorporError, systemCode } from "@torpor/std";
import type { VmHandle, VmSpec } from "../driver.ts";
import { isAlive, nameProcess } from "../process.ts";
import { runFiles } from "../run-files.ts";
import type { Confinement } from "./confinement.ts";
import type { QemuProgram } from "./program.ts";

const systemPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
    const name = nameProcess(child.pid ?? 0);
    if (name === undefined) {
      reject(new TorporError("vmm.exited", "QEMU ended at once"));
      return;
    }
    const handle: VmHandle = {
      ...name,
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
            gid: confinement.userId,
            // What the daemon's holds is none of its business.
            env: { PATH: systemPath, ...env },
          }),
    });
  const inView = (): ChildProcess =>
    confinement === undefined ? start() : confinement.start(start);
  return network.kind === "tap" ? network.inNamespace(inView) : inView();
}
