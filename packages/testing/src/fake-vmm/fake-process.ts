/**
 * The process of a fake VM: it survives when a daemon dies, and a later daemon adopts it.
 *
 * It reacts to commands as QEMU does, refusals included, and accuses the host of what no host may
 * do: saving a guest that is not at rest, or letting one continue over memory or a disk that does
 * not belong to its device state.
 */
import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { TorporError, parseJson } from "@torpor/std";
import type { DiskLayer, LayerReplacement, VmExit, VmHandle, VmSpec } from "@torpor/vmm";
import { FakeDisk } from "./fake-disk.ts";
import { FakeGuest } from "./fake-guest.ts";
import { FakeMemory } from "./fake-memory.ts";

/** How many guest clusters are examined; the guest never writes beyond them. */
export const diskClusters = 8;

/** Parameters of a fake process. */
export interface FakeProcessOptions {
  readonly handle: VmHandle;
  readonly spec: VmSpec;
  readonly accuse: (what: string) => void;
}

interface DeviceState {
  readonly memorySha1: string;
  readonly disk: readonly string[];
  /** Base64; only for a VM that was saved whole. */
  readonly memory?: string;
}

/** One fake VM, with its memory, disk and agent. */
export class FakeProcess {
  readonly handle: VmHandle;
  readonly spec: VmSpec;
  readonly memory: FakeMemory;
  readonly disk: FakeDisk;
  readonly guest: FakeGuest;
  readonly exited: Promise<VmExit>;
  readonly #accuse: (what: string) => void;
  readonly #exit: (exit: VmExit) => void;
  #isAlive = true;
  #isLoaded = false;
  #isHeld = true;
  #released = Promise.withResolvers<void>();

  constructor({ handle, spec, accuse }: FakeProcessOptions) {
    this.handle = handle;
    this.spec = spec;
    this.#accuse = (what) => accuse(`VM ${handle.pid} of ${spec.name}: ${what}`);
    this.memory = new FakeMemory(spec.memoryPath, spec.machine.memoryMiB * 1024 * 1024);
    this.disk = new FakeDisk(spec.disk);
    this.guest = new FakeGuest({
      memory: this.memory,
      running: () => this.#released.promise,
      accuse: this.#accuse,
    });
    const { promise, resolve } = Promise.withResolvers<VmExit>();
    this.exited = promise;
    this.#exit = resolve;
  }

  get isAlive(): boolean {
    return this.#isAlive;
  }

  /** Whether user code runs in the guest. */
  get isAwake(): boolean {
    return this.#isAlive && !this.#isHeld && !this.guest.mind.atRest;
  }

  get isHeld(): boolean {
    return this.#isHeld;
  }

  /** Ends the process for good, for whatever reason. */
  end(lastWords = ""): void {
    if (!this.#isAlive) return;
    this.#isAlive = false;
    this.guest.close();
    this.#exit({ consoleTail: "", vmmTail: lastWords });
  }

  hold(): void {
    this.#check();
    if (this.#isHeld) return;
    this.#isHeld = true;
    this.#released = Promise.withResolvers();
  }

  release(): void {
    this.#check();
    if (!this.#isLoaded) this.#accuse("released before its device state is loaded");
    this.#isHeld = false;
    this.#released.resolve();
  }

  saveState(path: string, savesMemory: boolean): void {
    this.#check();
    if (!this.#isHeld) this.#accuse("saved while its vCPUs run");
    if (!this.guest.mind.atRest) this.#accuse("saved while its guest is not at rest");
    const state: DeviceState = {
      memorySha1: this.#memorySha1(),
      disk: this.readDisk(),
      ...(savesMemory ? { memory: this.memory.bytes.toString("base64") } : {}),
    };
    writeFileSync(path, JSON.stringify(state));
  }

  loadState(path: string): void {
    this.#check();
    if (this.#isLoaded) throw new TorporError("vmm.failed", "this VM has its device state");
    const state = parseJson(readFileSync(path, "utf8"), path) as DeviceState;
    if (state.memory !== undefined) this.memory.writeAt(0, Buffer.from(state.memory, "base64"));
    if (state.memorySha1 !== this.#memorySha1()) this.#accuse("loads over another memory");
    if (String(state.disk) !== String(this.readDisk())) this.#accuse("loads over another disk");
    this.#isLoaded = true;
  }

  flushDisk(): void {
    this.#check();
    this.disk.flush();
  }

  addDiskLayer(layer: DiskLayer): void {
    this.#check();
    if (this.disk.paths.includes(layer.path)) {
      throw new TorporError("vmm.failed", "a node of this name is there already");
    }
    this.disk.addLayer(layer);
  }

  replaceDiskLayers(replacement: LayerReplacement): void {
    this.#check();
    const before = this.readDisk();
    this.disk.replaceLayers(replacement);
    if (String(this.readDisk()) !== String(before)) this.#accuse("has another disk under it");
    const needed = replacement.replaced.filter(({ path }) => this.disk.paths.includes(path));
    if (needed.length > 0) this.#accuse("is to lose layers that it stands upon");
  }

  readDisk(): readonly string[] {
    return Array.from({ length: diskClusters }, (_, cluster) => this.disk.read(cluster));
  }

  /** @throws vmm.exited when the process has ended */
  #check(): void {
    if (!this.#isAlive) throw new TorporError("vmm.exited", `process ${this.handle.pid} is gone`);
  }

  #memorySha1(): string {
    return createHash("sha1").update(this.memory.bytes).digest("hex");
  }
}
