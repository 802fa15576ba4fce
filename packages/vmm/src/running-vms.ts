/** All VMs that run on this machine, under any driver. */
import type { VmProcess } from "./driver.ts";
import { recogniseFirecracker } from "./firecracker/run-files.ts";
import { findProcesses } from "./process.ts";
import { recogniseQemu } from "./qemu/command-line.ts";

/** Finds the VMs whose run folder lies below `folder`. */
export function findVms(folder: string): Promise<readonly VmProcess[]> {
  return findProcesses(folder, (argv) => recogniseQemu(argv) ?? recogniseFirecracker(argv));
}
