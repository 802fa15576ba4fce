/**
 * The driver of fake VMs, as one daemon sees them. Each call passes `gate` before and after its
 * effect, so that a test can fail it, or never let it settle for a daemon that is dead.
 */
import { TorporError } from "@torpor/std";
import type {
  DiskLayer,
  GuestMemory,
  LayerReplacement,
  MemoryContent,
  Vm,
  VmExit,
  VmHandle,
  VmProcess,
  VmSpec,
  VmmDriver,
  VmmIdentity,
} from "@torpor/vmm";
import type { FakeMachine } from "./fake-machine.ts";
import type { FakeProcess } from "./fake-process.ts";

/** Runs a call, or fails it, or never settles. */
export type Gate = <T>(name: string, call: () => T | Promise<T>) => Promise<T>;

/** The identity of every fake VMM. */
export const fakeIdentity: VmmIdentity = {
  vmm: "qemu",
  version: "fake",
  accelerator: "tcg",
  cpuFingerprint: "fake",
  tscKhz: 1_000_000,
};

/** The hardware that a guest sees; there is only this machine. */
export const fakeMachineWords: readonly string[] = ["fake"];

/** A daemon's access to the VMs of a fake machine. */
export class FakeDriver implements VmmDriver {
  readonly takesPager = false;
  readonly #machine: FakeMachine;
  readonly #gate: Gate;

  constructor(machine: FakeMachine, gate: Gate) {
    this.#machine = machine;
    this.#gate = gate;
  }

  async identity(): Promise<VmmIdentity> {
    return await this.#gate("identity", () => fakeIdentity);
  }

  guestVisible(): readonly string[] {
    return fakeMachineWords;
  }

  boot(): Promise<Vm> {
    throw new TorporError("vmm.failed", "a fake VM cannot boot");
  }

  async restore(spec: VmSpec): Promise<Vm> {
    const process = await this.#gate("restore", () => this.#machine.start(spec));
    return new FakeVm(this.#machine, process, this.#gate);
  }

  async adopt(handle: VmHandle): Promise<Vm> {
    const process = await this.#gate("adopt", () => this.#machine.find(handle));
    return new FakeVm(this.#machine, process, this.#gate);
  }

  async processesBelow(folder: string): Promise<readonly VmProcess[]> {
    const found = await this.#gate("processesBelow", () => this.#machine.processesBelow(folder));
    return found.map((process) => ({
      ...process.handle,
      end: () => this.#gate("end stray", () => this.#machine.end(process)),
    }));
  }
}

class FakeVm implements Vm {
  readonly handle: VmHandle;
  readonly version = fakeIdentity.version;
  readonly memory: GuestMemory;
  readonly exited: Promise<VmExit>;
  readonly #machine: FakeMachine;
  readonly #process: FakeProcess;
  readonly #gate: Gate;
  /** Layers that wait to be added. */
  readonly #opened = new Set<string>();
  #isReleased = false;

  constructor(machine: FakeMachine, process: FakeProcess, gate: Gate) {
    this.handle = process.handle;
    this.memory = process.memory;
    this.#machine = machine;
    this.#process = process;
    this.#gate = gate;
    this.exited = process.exited.then(async (exit) => {
      if (this.#isReleased) return await new Promise<never>(() => undefined);
      return exit;
    });
  }

  async holdVcpus(): Promise<void> {
    await this.#gate("hold", () => this.#process.hold());
  }

  async releaseVcpus(): Promise<void> {
    await this.#gate("release", () => this.#process.release());
  }

  commandLine(): readonly string[] {
    return ["fake"];
  }

  async saveDeviceState(path: string): Promise<void> {
    await this.#gate("save devices", () => this.#process.saveState(path, false));
  }

  async saveWholeState(path: string): Promise<void> {
    await this.#gate("save whole", () => this.#process.saveState(path, true));
  }

  async loadDeviceState(path: string): Promise<void> {
    await this.#gate("load devices", () => this.#process.loadState(path));
  }

  async loadMemory(content: MemoryContent): Promise<void> {
    await this.#gate("load memory", () => content.applyTo(this.#process.memory));
  }

  async flushDisk(): Promise<void> {
    await this.#gate("flush", () => this.#process.flushDisk());
  }

  async openDiskLayer({ path }: DiskLayer): Promise<void> {
    await this.#gate("open disk layer", () => {
      if (this.#opened.has(path)) throw new TorporError("vmm.failed", "it is open already");
      this.#opened.add(path);
    });
  }

  async closeDiskLayer({ path }: DiskLayer): Promise<void> {
    await this.#gate("close disk layer", () => this.#opened.delete(path));
  }

  async addDiskLayer({ path }: DiskLayer): Promise<void> {
    await this.#gate("add disk layer", () => {
      if (!this.#opened.has(path)) throw new TorporError("vmm.failed", "it was not opened");
      this.#machine.addDiskLayer(this.#process, path);
    });
  }

  async replaceDiskLayers(replacement: LayerReplacement): Promise<void> {
    await this.#gate("replace disk layers", () =>
      this.#machine.replaceDiskLayers(this.#process, replacement),
    );
  }

  async end(): Promise<void> {
    await this.#gate("end", () => this.#machine.end(this.#process));
  }

  release(): void {
    this.#isReleased = true;
  }

  async isStalled(): Promise<boolean> {
    return await this.#gate("is stalled", () => false);
  }
}
