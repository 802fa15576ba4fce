/**
 * A guest under Firecracker: the `Vm` of this driver, over the API, the disk's process and its
 * files.
 */
import { readFileSync } from "node:fs";
import { chown, readFile, rm, unlink, writeFile } from "node:fs/promises";
import { keepsHoles } from "@torpor/native";
import { Deadline, TorporError, assert, ignoreFailure } from "@torpor/std";
import { removeCgroup } from "../cgroup.ts";
import type {
  DiskLayer,
  LayerReplacement,
  MemoryContent,
  Vm,
  VmExit,
  VmHandle,
} from "../driver.ts";
import { type ProcessName, endProcess, isAlive, nameProcess, readExit } from "../process.ts";
import { readTail } from "../run-files.ts";
import type { FirecrackerApi } from "./api.ts";
import type { DiskExport } from "./disk-export.ts";
import { FirecrackerMemory } from "./memory.ts";
import type { Pager } from "./pager.ts";
import {
  type MemoryBackend,
  type RateLimits,
  limitRequests,
  loadRequest,
  runStateRequest,
  saveRequest,
} from "./requests.ts";
import { runPaths, takeFile } from "./run-files.ts";
import type { ReleaseNumber } from "./version.ts";
import { appendState, readState } from "./whole-state.ts";

const logTailBytes = 4096;
const endBudgetMs = 5_000;
/** LIMIT: how long a pager that ended its VM has to report why. */
const reasonBudgetMs = 3_000;
/** For when the logs of a process that has ended cannot be read. */
const unknownExit: VmExit = { consoleTail: "", vmmTail: "" };

/** The parts of a `FirecrackerVm`, which takes over the connections. */
export interface VmParts {
  readonly handle: VmHandle;
  readonly version: string;
  readonly release: ReleaseNumber;
  readonly api: FirecrackerApi;
  readonly disk: DiskExport;
  readonly memory: FirecrackerMemory;
  readonly limits: RateLimits;
  readonly tapName: string;
  /** Powered on by this driver: its memory becomes an image when it is saved. */
  readonly isBooted: boolean;
  readonly pager: Pager | undefined;
}

/** A `Vm` under Firecracker. */
export class FirecrackerVm implements Vm {
  readonly handle: VmHandle;
  readonly version: string;
  readonly memory: FirecrackerMemory;
  readonly exited: Promise<VmExit>;
  readonly #parts: VmParts;
  readonly #pagerProcess: ProcessName | undefined;
  #isReleased = false;
  #endReason: TorporError | undefined;

  constructor(parts: VmParts) {
    this.#parts = parts;
    this.handle = parts.handle;
    this.version = parts.version;
    this.memory = parts.memory;
    this.exited = this.#untilExit();
    void this.#endWithout(
      parts.disk.closed.then(
        () => new TorporError("vmm.exited", "the process of its disk has ended"),
      ),
    );
    const { pager } = parts;
    if (pager === undefined) return;
    this.#pagerProcess = nameProcess(pager.pid);
    void this.#endWithout(pager.ended);
  }

  async holdVcpus(deadline: Deadline): Promise<void> {
    await this.#parts.api.send(runStateRequest("Paused"), deadline);
  }

  async releaseVcpus(deadline: Deadline): Promise<void> {
    await this.#parts.api.send(runStateRequest("Resumed"), deadline);
  }

  commandLine(): readonly string[] {
    return readFileSync(`/proc/${this.handle.pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  }

  async saveDeviceState(path: string, deadline: Deadline): Promise<void> {
    const { isBooted } = this.#parts;
    const { runFolder } = this.handle;
    const { deviceState, changedMemory } = runPaths(runFolder);
    // ORDER: a diff holds what changed since the save before, so all saves go into one file.
    const kind = isBooted || !keepsHoles(runFolder) ? "Full" : "Diff";
    await this.#save(kind, deadline);
    await takeFile(deviceState, path, deadline);
    if (isBooted) await takeFile(changedMemory, this.handle.memoryPath, deadline);
    else this.memory.refresh(kind === "Full");
  }

  async saveWholeState(path: string, deadline: Deadline): Promise<void> {
    const { deviceState } = runPaths(this.handle.runFolder);
    const taken = `${path}.devices`;
    await this.#save("Full", deadline);
    await takeFile(deviceState, taken, deadline);
    this.memory.refresh(true);
    await this.memory.copySaved(path);
    await appendState(path, await readFile(taken));
    await unlink(taken);
  }

  async loadMemory(content: MemoryContent): Promise<void> {
    assert(this.#parts.pager === undefined, "a VM has its memory from one place");
    await this.memory.writeFile(content);
  }

  async loadDeviceState(path: string, deadline: Deadline): Promise<void> {
    const { api, release, tapName, limits } = this.#parts;
    const { statePath, memory } = await this.#prepareLoad(path);
    await api.send(loadRequest({ release, statePath, memory, tapName }), deadline);
    for (const request of limitRequests(limits)) await api.send(request, deadline);
  }

  async flushDisk(deadline: Deadline): Promise<void> {
    await this.#parts.disk.flush(deadline);
  }

  async openDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void> {
    await this.#parts.disk.layers.open(layer.path, deadline);
  }

  async addDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void> {
    await this.#parts.disk.layers.add(layer, deadline);
  }

  async closeDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void> {
    await this.#parts.disk.layers.close(layer, deadline);
  }

  async replaceDiskLayers(replacement: LayerReplacement, deadline: Deadline): Promise<void> {
    // The disk's process sees the host's files.
    await this.#parts.disk.layers.replace(replacement, (path) => path, deadline);
  }

  /**
   * Always false: a failed write to the host's disk becomes an error of the guest's disk, and
   * nothing is held.
   */
  async isStalled(): Promise<boolean> {
    return false;
  }

  async end(deadline: Deadline): Promise<void> {
    const { api, disk, pager } = this.#parts;
    await endProcess(this.handle, deadline);
    await pager?.end(deadline);
    if (this.#pagerProcess !== undefined) await endProcess(this.#pagerProcess, deadline);
    // ORDER: after the VM, which has the disk open. A flush that nobody waits for does not count.
    await endProcess(disk.process, deadline);
    api.close();
    disk.close();
    await Promise.all([api.closed, disk.closed]);
    if (this.handle.cgroup !== undefined) removeCgroup(this.handle.cgroup);
  }

  release(): void {
    this.#isReleased = true;
    this.#parts.pager?.release();
    this.#parts.api.close();
    this.#parts.disk.close(); // serves one client at a time: the next daemon waits for this
  }

  async #save(kind: "Full" | "Diff", deadline: Deadline): Promise<void> {
    const { deviceState, changedMemory } = runPaths(this.handle.runFolder);
    await rm(deviceState, { force: true });
    await this.#parts.api.send(saveRequest(kind, deviceState, changedMemory), deadline);
  }

  /** Prepares the files from which Firecracker loads, and returns where they are. */
  async #prepareLoad(
    path: string,
  ): Promise<{ readonly statePath: string; readonly memory: MemoryBackend }> {
    const { loadedState, pager } = runPaths(this.handle.runFolder);
    if (this.#parts.pager !== undefined) {
      return { statePath: path, memory: { kind: "Uffd", path: pager } };
    }
    const state = await readState(path, this.memory.sizeBytes);
    if (state !== undefined) {
      const userId = this.handle.userId ?? 0;
      // Nothing has run in the jail yet that could have put something else there.
      await writeFile(loadedState, state, { flag: "wx", mode: 0o400 });
      await chown(loadedState, userId, userId);
      this.memory.useWhole(path);
      return { statePath: loadedState, memory: { kind: "File", path } };
    }
    return { statePath: path, memory: { kind: "File", path: this.memory.basePath } };
  }

  async #untilExit(): Promise<VmExit> {
    await this.#parts.api.closed;
    this.memory[Symbol.dispose]();
    // Released, not ended: there is no exit to report.
    if (this.#isReleased) return await new Promise<never>(() => undefined);
    const exit = await this.#readExit().catch(() => unknownExit);
    const reason = await this.#whyEnded();
    return reason === undefined ? exit : { reason, ...exit };
  }

  /** A pager that cannot continue ends the VM first, and then writes its reason. */
  async #whyEnded(): Promise<TorporError | undefined> {
    const { pager } = this.#parts;
    if (pager === undefined || this.#endReason !== undefined) return this.#endReason;
    const deadline = Deadline.after(reasonBudgetMs, "asking why the VM was ended");
    return await deadline.race(pager.ended).catch(() => undefined);
  }

  async #readExit(): Promise<VmExit> {
    const { runFolder } = this.handle;
    const { consoleTail, vmmTail } = await readExit(this.handle);
    const own = await readTail(runPaths(runFolder).log, logTailBytes);
    return { consoleTail, vmmTail: `${own}${vmmTail}` };
  }

  /** Ends the VM when its disk or memory is no longer served: the guest would hang for ever. */
  async #endWithout(ended: Promise<TorporError | undefined>): Promise<void> {
    const reason = await ended;
    // A process that ends after the VM is not why the VM ended.
    if (this.#isReleased || !isAlive(this.handle)) return;
    this.#endReason ??= reason;
    const deadline = Deadline.after(endBudgetMs, "ending a VM that is not served any more");
    await ignoreFailure("its exit is the news", endProcess(this.handle, deadline));
  }
}

/** Narrows a network to a TAP device. @throws root.required */
export function assertTap<K extends { readonly kind: string }>(
  network: K,
): asserts network is Extract<K, { kind: "tap" }> {
  if (network.kind === "tap") return;
  throw new TorporError("root.required", "Firecracker has no network but a TAP device", {
    advice: "Run the daemon as root, or run sandboxes under QEMU.",
  });
}
