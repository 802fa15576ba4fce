/**
 * The disk of one VM: its qcow2 layers, served as one raw file over FUSE by a process of QEMU's
 * storage daemon, because Firecracker opens nothing but raw files and block devices.
 *
 * The file exists only in the mount namespace of that process. The jail is then made in the same
 * namespace, so nothing is left of the file when the process ends. Layers are added while the VM
 * runs, as in QEMU, and what the guest wrote is in the layers' files when a flush of the file
 * returns.
 *
 * The process also holds the VM's user id: the jailer closes every descriptor that it is given.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { chown, open } from "node:fs/promises";
import { join } from "node:path";
import { type PrivateMount, withMounts } from "@torpor/native";
import { type Deadline, TorporError, parseObject, parseString, systemCode } from "@torpor/std";
import type { DiskLayer } from "../driver.ts";
import { type ProcessName, isAlive, nameProcess } from "../process.ts";
import { BlockLayers } from "../qemu/block-layers.ts";
import { blockNode } from "../qemu/command-line.ts";
import { QmpClient } from "../qemu/qmp.ts";
import { runFiles } from "../run-files.ts";
import { diskProcessName, runPaths } from "./run-files.ts";

const program = "qemu-storage-daemon";

/** The inputs of `DiskExport.start`. */
export interface DiskOptions {
  readonly runFolder: string;
  /** Oldest first; the guest writes to the last one. */
  readonly layers: readonly DiskLayer[];
  /** An empty file, over which the disk is mounted. */
  readonly target: string;
  /** Further files and folders that the jail needs. */
  readonly mounts: readonly PrivateMount[];
  /** The VM's user, who will own the disk. */
  readonly userId: number;
  /** The lock that holds the user id. */
  readonly lockFd: number;
}

/** The process that serves one VM's disk, and a connection to it. */
export class DiskExport {
  readonly process: ProcessName;
  readonly layers: BlockLayers;
  readonly #qmp: QmpClient;
  /** Path of the served file, through the mounts of the process. */
  readonly #path: string;

  private constructor(process: ProcessName, qmp: QmpClient, target: string) {
    this.process = process;
    this.#qmp = qmp;
    this.layers = new BlockLayers(qmp, (deadline) => this.#topNode(deadline));
    this.#path = join(`/proc/${process.pid}/root`, target);
  }

  /** Starts the process. @throws vmm.missing if the program is not installed */
  static async start(options: DiskOptions, deadline: Deadline): Promise<DiskExport> {
    const child = withMounts(options.mounts, () => spawnDisk(options));
    child.unref();
    await deadline.race(untilStarted(child));
    const name = nameProcess(child.pid ?? 0);
    if (name === undefined) throw new TorporError("vmm.exited", `${program} ended at once`);
    try {
      const disk = await DiskExport.reach(name, options.runFolder, options.target, deadline);
      await chown(disk.#path, options.userId, options.userId);
      return disk;
    } catch (cause) {
      child.kill("SIGKILL");
      throw cause;
    }
  }

  /** Connects to a running process. Once it answers, the file is there. @throws vmm.exited */
  static async reach(
    name: ProcessName,
    runFolder: string,
    target: string,
    deadline: Deadline,
  ): Promise<DiskExport> {
    const { diskControl } = runPaths(runFolder);
    const qmp = await QmpClient.connect(diskControl, () => isAlive(name), deadline);
    return new DiskExport(name, qmp, target);
  }

  /** Settles when the process has ended, or after `close`. */
  get closed(): Promise<void> {
    return this.#qmp.closed;
  }

  /** Disconnects from the process, which keeps running. */
  close(): void {
    this.#qmp.close();
  }

  /**
   * On return, everything that was written is in the top layer's file and flushed.
   * @throws storage.failed
   */
  async flush(deadline: Deadline): Promise<void> {
    await deadline.race(
      this.#flush().catch((cause: unknown) => {
        throw TorporError.from(cause, "storage.failed", "flushing the disk");
      }),
    );
  }

  async #flush(): Promise<void> {
    await using file = await open(this.#path, "r+");
    await file.sync();
  }

  async #topNode(deadline: Deadline): Promise<string> {
    const answer: unknown = await this.#qmp.execute("query-block-exports", {}, deadline);
    const [disk] = Array.isArray(answer) ? (answer as unknown[]) : [];
    return parseString(parseObject(disk, "disk")["node-name"], "disk");
  }
}

/**
 * The program's arguments. ORDER: the control socket comes last, so that a client that connects to
 * it finds the disk there.
 */
export function diskArguments({ runFolder, layers, target }: DiskOptions): readonly string[] {
  const isTop = (index: number): boolean => index === layers.length - 1;
  const { diskControl } = runPaths(runFolder);
  const mountpoint = target.replaceAll(",", ",,");
  return [
    ...layers.flatMap((layer, index) => [
      "--blockdev",
      JSON.stringify(blockNode(layer, index, isTop(index))),
    ]),
    "--export",
    // allow-other: users other than the mounting one may use it, namely the jailed user, its later
    // owner.
    `type=fuse,id=disk,node-name=disk,mountpoint=${mountpoint},writable=on,growable=off,allow-other=on`,
    ...["--chardev", `socket,path=${diskControl},server=on,wait=off,id=control`],
    ...["--monitor", "control"],
  ];
}

function spawnDisk(options: DiskOptions): ChildProcess {
  using files = new DisposableStack();
  const log = files.adopt(openSync(join(options.runFolder, runFiles.log), "a", 0o600), closeSync);
  return spawn(program, diskArguments(options), {
    argv0: diskProcessName,
    detached: true,
    stdio: ["ignore", log, log, options.lockFd],
  });
}

/** Settles when the child runs. @throws vmm.missing if its program does not exist, vmm.failed */
export function untilStarted(child: ChildProcess): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  child.once("spawn", () => resolve());
  child.once("error", (cause) => {
    const name = child.spawnfile;
    reject(
      systemCode(cause) === "ENOENT"
        ? new TorporError("vmm.missing", `${name} is not installed`, { cause })
        : TorporError.from(cause, "vmm.failed", `starting ${name}`),
    );
  });
  return promise;
}
