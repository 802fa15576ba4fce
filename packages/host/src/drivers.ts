/**
 * Which VMM a sandbox runs: the one that its template was made with, whatever is installed by now. Of
 * QEMU that is a copy, so one daemon runs sandboxes of several versions side by side, and of both VMMs.
 */
import { type TemplateManifest, vmmCopyFolder } from "@torpor/storage";
import {
  type Accelerator,
  type ConfinementOptions,
  FirecrackerDriver,
  QemuDriver,
  type VmmDriver,
  copiedQemu,
  installedQemu,
} from "@torpor/vmm";
import type { Pagers } from "./pagers.ts";

/** One driver for each copy, because a driver verifies its program once. */
export function driversOf(
  cacheFolder: string,
  confinement: ConfinementOptions | undefined,
): (template: TemplateManifest) => VmmDriver {
  const drivers = new Map<string, VmmDriver>();
  return ({ vmmCopy, identity: { vmm, accelerator } }) => {
    const name = `${vmm} ${vmmCopy ?? "installed"} ${accelerator}`;
    const program =
      vmmCopy === undefined
        ? installedQemu()
        : copiedQemu(vmmCopyFolder(cacheFolder, vmmCopy), vmmCopy);
    const driver =
      drivers.get(name) ??
      (vmm === "firecracker"
        ? new FirecrackerDriver({ confinement })
        : new QemuDriver({ accelerator, program, confinement }));
    drivers.set(name, driver);
    return driver;
  };
}

/** Reaches VMs that run already, whoever started them and with which VMM. */
export function reachingDriver(
  accelerator: Accelerator,
  pagers: Pagers,
): Pick<VmmDriver, "adopt" | "processesBelow"> {
  const qemu = new QemuDriver({ accelerator });
  const firecracker = new FirecrackerDriver({
    adoptPager: (runFolder, deadline) => pagers.adopt(runFolder, deadline),
  });
  return {
    adopt: (handle, deadline) =>
      (handle.firecracker === undefined ? qemu : firecracker).adopt(handle, deadline),
    processesBelow: (folder) => qemu.processesBelow(folder),
  };
}
