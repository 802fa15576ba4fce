/** A running QEMU guest: the `Vm` of this driver, over its control socket and its process. */
import { readFileSync } from "node:fs";
import { type Deadline, TorporError, parseObject, parseString, shownValue } from "@torpor/std";
import type {
  DiskLayer,
  LayerReplacement,
  MemoryContent,
  Vm,
  VmExit,
  VmHandle,
} from "../driver.ts";
import { endProcess, readExit } from "../process.ts";
import { BlockLayers } from "./block-layers.ts";
import { bringHome, endConfinement, handOver, pathWithin, show, takeAway } from "./confinement.ts";
import { ProcessMemory } from "./memory.ts";
import type { QmpClient } from "./qmp.ts";

const statePollMs = 1;
const savePollMs = 10;
/** Bytes a second; QEMU would limit itself to 128 MiB. */
const unlimited = 2 ** 50;
/** For when the logs of a process that has ended cannot be read. */
const unknownExit: VmExit = { consoleTail: "", vmmTail: "" };

/** The first device on the command line is the disk. */
const diskDevice = "/machine/peripheral-anon/device[0]";

/** A `Vm` under QEMU. */
export class QemuVm implements Vm {
  readonly handle: VmHandle;
  readonly version: string;
  readonly memory: ProcessMemory;
  readonly exited: Promise<VmExit>;
  readonly #qmp: QmpClient;
  readonly #layers: BlockLayers;
  #released = false;

  private constructor(handle: VmHandle, qmp: QmpClient, version: string) {
    this.handle = handle;
    this.version = version;
    this.memory = new ProcessMemory(handle);
    this.#qmp = qmp;
    this.#layers = new BlockLayers(qmp, (deadline) => this.#topNode(deadline));
    this.exited = qmp.closed.then(async () => {
      this.memory[Symbol.dispose]();
      // Released, not ended: there is no exit to report.
      if (this.#released) return await new Promise<never>(() => undefined);
      return await readExit(handle).catch(() => unknownExit);
    });
  }

  /** Takes over the connection. */
  static async open(handle: VmHandle, qmp: QmpClient, deadline: Deadline): Promise<QemuVm> {
    const answer = parseObject(await qmp.execute("query-version", {}, deadline), "version");
    const { major, minor, micro } = parseObject(answer["qemu"], "version");
    const number = [major, minor, micro].map(shownValue).join(".");
    const revision = shownValue(answer["package"]);
    return new QemuVm(handle, qmp, revision === "" ? number : `${number} (${revision})`);
  }

  async holdVcpus(deadline: Deadline): Promise<void> {
    await this.#qmp.execute("stop", {}, deadline);
  }

  async releaseVcpus(deadline: Deadline): Promise<void> {
    await this.#qmp.execute("cont", {}, deadline);
  }

  async saveDeviceState(path: string, deadline: Deadline): Promise<void> {
    const filename = pathWithin(this.handle, path);
    // Not live: as for a migration, QEMU would give up the disk layers, and reopen each to
    // continue.
    await this.#qmp.execute("xen-save-devices-state", { filename, live: false }, deadline);
    bringHome(this.handle, path);
  }

  async saveWholeState(path: string, deadline: Deadline): Promise<void> {
    await this.#qmp.execute("migrate-set-parameters", { "max-bandwidth": unlimited }, deadline);
    const uri = `file:${pathWithin(this.handle, path)}`;
    await this.#qmp.execute("migrate", { uri }, deadline);
    for (;;) {
      const answer = parseObject(await this.#qmp.execute("query-migrate", {}, deadline), "save");
      const status = shownValue(answer["status"]);
      if (status === "completed") break;
      if (status === "failed" || status === "cancelled") {
        throw new TorporError("vmm.failed", `saving failed: ${shownValue(answer["error-desc"])}`);
      }
      deadline.check();
      await deadline.sleep(savePollMs);
    }
    bringHome(this.handle, path);
  }

  commandLine(): readonly string[] {
    return readFileSync(`/proc/${this.handle.pid}/cmdline`, "utf8").split("\0").slice(0, -1);
  }

  async loadMemory(content: MemoryContent): Promise<void> {
    await content.applyTo(this.memory);
  }

  async loadDeviceState(path: string, deadline: Deadline): Promise<void> {
    await this.#qmp.execute("migrate-incoming", { uri: `file:${path}` }, deadline);
    while ((await this.#runState(deadline)) === "inmigrate") {
      deadline.check();
      await deadline.sleep(statePollMs);
    }
  }

  async flushDisk(deadline: Deadline): Promise<void> {
    // `stop` has drained the device; the flush reports what `stop` does not, such as a full disk.
    const top = await this.#topNode(deadline);
    const printed = await this.#qmp.executeHuman(`qemu-io ${top} "flush"`, deadline);
    if (printed !== "") throw new TorporError("storage.failed", `flushing the disk: ${printed}`);
  }

  async openDiskLayer({ path }: DiskLayer, deadline: Deadline): Promise<void> {
    await this.#layers.open(handOver(this.handle, path), deadline);
  }

  async addDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void> {
    if (!(await this.#layers.add(layer, deadline))) return;
    // QEMU reopens the sealed layer's file read-only when it next checks permissions on it. The
    // flush makes that happen now, and not when other disks are built on the file and it no longer
    // belongs to this VM.
    await this.flushDisk(deadline);
  }

  async closeDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void> {
    await this.#layers.close(layer, deadline);
  }

  async replaceDiskLayers(replacement: LayerReplacement, deadline: Deadline): Promise<void> {
    await this.#layers.replace(replacement, (path) => show(this.handle, path), deadline);
    for (const { path } of replacement.replaced) takeAway(this.handle, path);
  }

  async isStalled(deadline: Deadline): Promise<boolean> {
    return (await this.#runState(deadline)) === "io-error";
  }

  async end(deadline: Deadline): Promise<void> {
    await endProcess(this.handle, deadline);
    this.#qmp.close();
    await this.#qmp.closed;
    endConfinement(this.handle);
  }

  release(): void {
    this.#released = true;
    this.#qmp.close(); // QEMU serves one client at a time: the next daemon waits for this
  }

  /**
   * Asks for the device's own node only: `query-block` describes every layer below, and the guest
   * is held until it has.
   */
  async #topNode(deadline: Deadline): Promise<string> {
    const drive = { path: diskDevice, property: "drive" };
    return parseString(await this.#qmp.execute("qom-get", drive, deadline), "disk");
  }

  async #runState(deadline: Deadline): Promise<string> {
    const status = parseObject(await this.#qmp.execute("query-status", {}, deadline), "status");
    return String(status["status"]);
  }
}
