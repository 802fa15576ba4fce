/**
 * A machine of fake VMs: their processes, which outlive the daemons that started them, and the
 * rules that no daemon may break with sealed files.
 *
 * It replaces the kernel and the VMM's program, so that a test can drive the daemon's own code
 * through thousands of lives in the time in which one real guest boots.
 */
import { statSync } from "node:fs";
import { TorporError } from "@torpor/std";
import type { LayerReplacement, VmHandle, VmSpec } from "@torpor/vmm";
import { FakeProcess } from "./fake-process.ts";

const firstPid = 1_000_000; // above any real one, should something ever signal it

/** The processes and sealed files of one machine. */
export class FakeMachine {
  readonly #processes = new Map<number, FakeProcess>();
  /** The state of each sealed file when it was sealed. */
  readonly #sealed = new Map<string, string>();
  readonly #accusations: string[] = [];
  #nextPid = firstPid;
  #portsLost = 0;

  /** Everything that was done and that no host may do, in words. */
  get accusations(): readonly string[] {
    return this.#accusations;
  }

  /** How often a port that had been free was taken, which is nobody's fault. */
  get portsLost(): number {
    return this.#portsLost;
  }

  readonly accuse = (what: string): void => {
    this.#accusations.push(what);
  };

  /** All living processes, oldest first. */
  get processes(): readonly FakeProcess[] {
    return [...this.#processes.values()].filter(({ isAlive }) => isAlive);
  }

  /** Finds a process. @throws vmm.exited */
  find({ pid, startTicks }: VmHandle): FakeProcess {
    const found = this.#processes.get(pid);
    if (found?.isAlive === true && found.handle.startTicks === startTicks) return found;
    throw new TorporError("vmm.exited", `process ${pid} is gone`);
  }

  processesBelow(folder: string): readonly FakeProcess[] {
    return this.processes.filter(({ spec }) => spec.runFolder.startsWith(`${folder}/`));
  }

  /**
   * Starts a VM with held vCPUs and without device state. @throws vmm.failed when a disk or a port
   * is in use
   */
  async start(spec: VmSpec): Promise<FakeProcess> {
    const top = spec.disk.at(-1)?.path ?? "";
    if (this.processes.some(({ disk }) => disk.paths.includes(top))) {
      throw new TorporError("vmm.failed", `failed to get a write lock of ${top}`);
    }
    for (const { path } of spec.disk.slice(0, -1)) this.#seal(path);
    this.#refuseSealed(top);
    const pid = this.#nextPid++;
    const handle: VmHandle = {
      pid,
      startTicks: pid,
      bootId: "one boot",
      runFolder: spec.runFolder,
      memoryPath: spec.memoryPath,
      memoryMiB: spec.machine.memoryMiB,
    };
    const process = new FakeProcess({ handle, spec, accuse: this.accuse });
    if (spec.network.kind !== "user") {
      throw new TorporError("vmm.failed", "a fake VM has a user network");
    }
    try {
      await process.guest.listen(spec.network.hostPort);
    } catch (cause) {
      this.#portsLost += 1;
      throw new TorporError("vmm.failed", "the port for the guest's agent is taken", { cause });
    }
    this.#processes.set(pid, process);
    return process;
  }

  /** Like `FakeProcess.addDiskLayer`; the layer below is sealed from here on. */
  addDiskLayer(process: FakeProcess, path: string): void {
    const below = process.disk.top;
    process.addDiskLayer({ path, format: "qcow2" });
    this.#refuseSealed(path);
    this.#seal(below);
  }

  /** Like `FakeProcess.replaceDiskLayers`; the new layers are sealed. */
  replaceDiskLayers(process: FakeProcess, replacement: LayerReplacement): void {
    process.replaceDiskLayers(replacement);
    for (const { path } of replacement.below) this.#seal(path);
  }

  /** Like `FakeProcess.end`; its disk is sealed. */
  end(process: FakeProcess, lastWords?: string): void {
    if (!process.isAlive) return;
    process.end(lastWords);
    this.#processes.delete(process.handle.pid);
    this.#seal(process.disk.top);
  }

  /** Accuses the host for every sealed file that exists and has changed. */
  checkSealed(): void {
    for (const [path, then] of this.#sealed) {
      const now = likeness(path);
      if (now === undefined) this.#sealed.delete(path);
      else if (now !== then) this.accuse(`${path} was changed after it was sealed`);
    }
  }

  #seal(path: string): void {
    const now = likeness(path);
    if (now !== undefined && !this.#sealed.has(path)) this.#sealed.set(path, now);
  }

  #refuseSealed(path: string): void {
    if (this.#sealed.has(path)) this.accuse(`a VM is to write to ${path}, which is sealed`);
  }
}

/** A text that differs after any write; undefined for a file that does not exist. */
function likeness(path: string): string | undefined {
  const found = statSync(path, { bigint: true, throwIfNoEntry: false });
  return found === undefined ? undefined : `${found.ino} ${found.size} ${found.mtimeNs}`;
}
