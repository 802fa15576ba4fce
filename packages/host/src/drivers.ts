/**
 * Selects the VMM of a sandbox: the one that its template was made with, whatever is installed now.
 * For QEMU that is a copy, so one daemon runs sandboxes of several QEMU versions, and of both VMMs,
 * side by side.
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

/**
 * Returns a function that selects the driver for a template. There is one driver per copy of the
 * VMM, because a driver verifies its program once.
 */
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

/** A driver that reaches VMs that already run, whichever daemon and VMM started them. */
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
