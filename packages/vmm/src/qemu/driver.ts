/**
 * The QEMU driver: starts, restores and adopts microvm guests under KVM or TCG. One driver starts
 * one QEMU program, which it verifies once, before the first start; it adopts VMs of any program.
 *
 * A failing start leaves no process behind and reports the last lines that QEMU printed.
 */
import { join } from "node:path";
import { measureTscKhz } from "@torpor/native";
import { Deadline, TorporError, ignoreFailure, runCommand } from "@torpor/std";
import type {
  Accelerator,
  MachineShape,
  Vm,
  VmHandle,
  VmProcess,
  VmSpec,
  VmmDriver,
  VmmIdentity,
} from "../driver.ts";
import { cpuFingerprint } from "../identity.ts";
import { endProcess, isAlive, readExit } from "../process.ts";
import { runFiles } from "../run-files.ts";
import { findVms } from "../running-vms.ts";
import { type StartMode, commandLine, machineArguments } from "./command-line.ts";
import { type StartedProcess, startProcess } from "./process.ts";
import { type ConfinementOptions, confine, endConfinement } from "./confinement.ts";
import { type QemuProgram, installedQemu } from "./program.ts";
import { QmpClient } from "./qmp.ts";
import { QemuVm } from "./vm.ts";

const versionBudgetMs = 10_000;
const cleanupBudgetMs = 5_000;

/** Options of `QemuDriver`. */
export interface QemuOptions {
  readonly accelerator: Accelerator;
  /** Defaults to the installed program. */
  readonly program?: QemuProgram;
  /** Undefined: a VM's process has the rights of the daemon. */
  readonly confinement?: ConfinementOptions | undefined;
}

/** Runs VMs under QEMU. */
export class QemuDriver implements VmmDriver {
  readonly takesPager = false;
  readonly #program: QemuProgram;
  readonly #accelerator: Accelerator;
  readonly #confinement: ConfinementOptions | undefined;
  #identity: Promise<VmmIdentity> | undefined;

  constructor(options: QemuOptions) {
    this.#program = options.program ?? installedQemu();
    this.#accelerator = options.accelerator;
    this.#confinement = options.confinement;
  }

  identity(): Promise<VmmIdentity> {
    this.#identity ??= this.#readIdentity().catch((cause: unknown) => {
      this.#identity = undefined; // the next call reads it again
      throw cause;
    });
    return this.#identity;
  }

  guestVisible(machine: MachineShape): readonly string[] {
    const parts = machineArguments(machine, this.#accelerator);
    return [...parts.machine, ...parts.devices];
  }

  boot(spec: VmSpec, deadline: Deadline): Promise<Vm> {
    return this.#start(spec, "boot", deadline);
  }

  restore(spec: VmSpec, deadline: Deadline): Promise<Vm> {
    return this.#start(spec, "restore", deadline);
  }

  async adopt(handle: VmHandle, deadline: Deadline): Promise<Vm> {
    const alive = (): boolean => isAlive(handle);
    if (!alive()) throw new TorporError("vmm.exited", `process ${handle.pid} is gone`);
    const qmp = await QmpClient.connect(join(handle.runFolder, runFiles.control), alive, deadline);
    return await QemuVm.open(handle, qmp, deadline);
  }

  processesBelow(folder: string): Promise<readonly VmProcess[]> {
    return findVms(folder);
  }

  async #start(spec: VmSpec, mode: StartMode, deadline: Deadline): Promise<Vm> {
    const { version } = await this.identity();
    const argv = commandLine(spec, this.#accelerator, mode);
    const { handle, alive } = await this.#startProcess(argv, spec);
    try {
      const control = join(spec.runFolder, runFiles.control);
      const qmp = await QmpClient.connect(control, alive, deadline);
      const vm = await QemuVm.open(handle, qmp, deadline);
      this.#assertVersion(vm.version, version);
      return vm;
    } catch (cause) {
      const cleanup = Deadline.after(cleanupBudgetMs, "ending a VM that did not start");
      await ignoreFailure("the start's own failure is reported", endProcess(handle, cleanup));
      endConfinement(handle);
      const { vmmTail } = await readExit(handle);
      const failure = TorporError.from(cause, "vmm.failed");
      throw new TorporError(failure.code, `${failure.rawMessage}; QEMU said: ${vmmTail.trim()}`, {
        cause,
        effect: "none",
      });
    }
  }

  async #startProcess(argv: readonly string[], spec: VmSpec): Promise<StartedProcess> {
    if (this.#confinement === undefined) {
      return await startProcess(this.#program, argv, spec, undefined);
    }
    const needsKvm = this.#accelerator === "kvm";
    using confinement = confine(spec, this.#program, needsKvm, this.#confinement);
    return await startProcess(this.#program, argv, spec, confinement);
  }

  /**
   * An installed QEMU may be upgraded at any time: the compared version must be the one that has
   * been started.
   */
  #assertVersion(started: string, compared: string): void {
    if (compared === started) return;
    this.#identity = undefined;
    throw new TorporError("snapshot.incompatible", `QEMU ${started} has taken ${compared}'s place`);
  }

  async #readIdentity(): Promise<VmmIdentity> {
    await this.#program.verify();
    return {
      vmm: "qemu",
      version: await qemuVersion(this.#program),
      accelerator: this.#accelerator,
      cpuFingerprint: await cpuFingerprint(),
      tscKhz: await measureTscKhz(),
    };
  }
}

/** The full version text, including Debian's revision. @throws vmm.missing */
export async function qemuVersion(program = installedQemu()): Promise<string> {
  const deadline = Deadline.after(versionBudgetMs, "asking QEMU for its version");
  const { command, env } = program;
  try {
    const { stdout } = await runCommand([...command, "--version"], deadline, { env });
    return /version (.+)/.exec(stdout)?.[1]?.trim() ?? "unknown";
  } catch (cause) {
    if (TorporError.is(cause) && cause.code === "command.notFound") {
      throw new TorporError("vmm.missing", "QEMU is not installed", { cause });
    }
    throw cause;
  }
}
