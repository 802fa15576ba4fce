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

/** A process that was just started. */
export interface StartedProcess {
  readonly handle: VmHandle;
  readonly alive: () => boolean;
}

/**
 * Starts QEMU with `argv`.
 * @param confinement Undefined: the process has the daemon's rights, and sees what the daemon sees.
 * @throws vmm.missing if there is no QEMU to start; vmm.exited, vmm.failed
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
  // Opened here: a confined process starts where there is no /dev.
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
            // A confined process does not inherit the daemon's environment.
            env: { PATH: systemPath, ...env },
          }),
    });
  const inView = (): ChildProcess =>
    confinement === undefined ? start() : confinement.start(start);
  return network.kind === "tap" ? network.inNamespace(inView) : inView();
}
