/**
 * Which VMM a sandbox runs: the copy that its template was made with, whatever is installed by now.
 * One daemon so runs sandboxes of several VMM versions side by side.
 */
import { type TemplateManifest, vmmCopyFolder } from "@torpor/storage";
import { QemuDriver, type VmmDriver, copiedQemu, installedQemu } from "@torpor/vmm";

/** One driver for each copy, because a driver verifies its program once. */
export function driversOf(cacheFolder: string): (template: TemplateManifest) => VmmDriver {
  const drivers = new Map<string, VmmDriver>();
  return ({ vmmCopy, identity: { accelerator } }) => {
    const name = `${vmmCopy ?? "installed"} ${accelerator}`;
    const program =
      vmmCopy === undefined
        ? installedQemu()
        : copiedQemu(vmmCopyFolder(cacheFolder, vmmCopy), vmmCopy);
    const driver = drivers.get(name) ?? new QemuDriver({ accelerator, program });
    drivers.set(name, driver);
    return driver;
  };
}
