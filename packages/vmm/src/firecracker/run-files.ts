/**
 * The files in the folder of a run under Firecracker.
 *
 *     console.log vmm.log     written through descriptors that the processes are given
 *     disk.sock               control socket of the process that serves the disk; the daemon's alone
 *     memory.img memory.json  what the guest's memory is loaded from, if not from the image; ours
 *     pager.*                 instead of them, the pager's own
 *     jail/                   what Firecracker sees as its file system; empty but for places to mount on
 *     vm/                     all that Firecracker may write: its control socket, its log, what it saves;
 *                             and the socket of its pager, until it has connected
 *
 * SAFETY: `vm` belongs to the jailed user, who may put anything there at any time.
 */
import { lstatSync, renameSync, unlinkSync } from "node:fs";
import { chmod, chown } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { type Deadline, TorporError, runCommand, systemCode } from "@torpor/std";
import type { RecognisedProcess } from "../process.ts";
import { pagerProcessName } from "./pager.ts";

const vmFolder = "vm";
const controlName = "api.sock";
const diskControlName = "disk.sock";
/** Name of the disk's process in the process list. */
export const diskProcessName = "torpor-disk";

/** Absolute paths of the files of one run. */
export interface RunPaths {
  readonly jail: string;
  readonly diskControl: string;
  /** The file from which the VM is loaded: a copy of the image, with the changed pages over it. */
  readonly memory: string;
  /** Describes what the VM was loaded from, if not from the image. */
  readonly loadedMemory: string;
  readonly vm: string;
  readonly control: string;
  readonly log: string;
  /** Where Firecracker saves: the device state, and the memory that changed since the load. */
  readonly deviceState: string;
  readonly changedMemory: string;
  /** Device state taken out of a whole VM's file, to be loaded. */
  readonly loadedState: string;
  /** The socket of the pager. */
  readonly pager: string;
}

/** The paths of a run in this folder. */
export function runPaths(runFolder: string): RunPaths {
  const vm = join(runFolder, vmFolder);
  return {
    jail: join(runFolder, "jail"),
    diskControl: join(runFolder, diskControlName),
    memory: join(runFolder, "memory.img"),
    loadedMemory: join(runFolder, "memory.json"),
    vm,
    control: join(vm, controlName),
    log: join(vm, "firecracker.log"),
    deviceState: join(vm, "device.state"),
    changedMemory: join(vm, "memory.changed"),
    loadedState: join(vm, "loaded.state"),
    pager: join(vm, "pager.sock"),
  };
}

/**
 * Recognises Firecracker and its disk's process by the path of the control socket, and a pager by
 * its last argument.
 */
export function recogniseFirecracker(argv: readonly string[]): RecognisedProcess | undefined {
  if (argv[0] === pagerProcessName) {
    return { runFolder: argv.findLast((word) => word !== "") ?? "", isVmm: false };
  }
  if (argv[0] === diskProcessName) {
    const path = /^socket,path=([^,]+)/.exec(argv[argv.indexOf("--chardev") + 1] ?? "")?.[1];
    return path === undefined ? undefined : { runFolder: dirname(path), isVmm: false };
  }
  const control = argv[argv.indexOf("--api-sock") + 1] ?? "";
  const isOurs = argv.some((word) => word.startsWith("torpor-"));
  if (!isOurs || basename(control) !== controlName) return undefined;
  return { runFolder: dirname(dirname(control)), isVmm: true };
}

/**
 * Takes a file out of the jailed user's reach. From here on it belongs to the owner.
 * @throws vmm.failed if it is no plain file: a process that an attacker took over may leave
 * anything.
 */
export async function takeFile(from: string, to: string, deadline: Deadline): Promise<void> {
  const near = `${dirname(dirname(from))}/${basename(from)}.taken`;
  // ORDER: check the file only where the process cannot replace it.
  renameSync(from, near);
  const stat = lstatSync(near);
  if (!stat.isFile() || stat.nlink !== 1) {
    unlinkSync(near);
    throw new TorporError("vmm.failed", `Firecracker left something else than a file for ${to}`);
  }
  await chown(near, 0, 0);
  await chmod(near, 0o600);
  try {
    renameSync(near, to);
  } catch (cause) {
    if (systemCode(cause) !== "EXDEV") throw cause;
    await runCommand(["cp", "--sparse=always", near, to], deadline);
    unlinkSync(near);
  }
}
