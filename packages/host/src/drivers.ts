/**
 * Which VMM a sandbox runs: the copy that its template was made with, whatever is installed by now.
 * One daemon so runs sandboxes of several VMM versions side by side.
 */
import { type TemplateManifest, vmmCopyFolder } from "@torpor/storage";
import {
  type ConfinementOptions,
  QemuDriver,
  type VmmDriver,
  copiedQemu,
  installedQemu,
} from "@torpor/vmm";

/** One driver for each copy, because a driver verifies its program once. */
export function driversOf(
  cacheFolder: string,
  confinement: ConfinementOptions | undefined,
): (template: TemplateManifest) => VmmDriver {
  const drivers = new Map<string, VmmDriver>();
  return ({ vmmCopy, identity: { accelerator } }) => {
    const name = `${vmmCopy ?? "installed"} ${accelerator}`;
    const program =
      vmmCopy === undefined
        ? installedQemu()
        : copiedQemu(vmmCopyFolder(cacheFolder, vmmCopy), vmmCopy);
    const driver = drivers.get(name) ?? new QemuDriver({ accelerator, program, confinement });
    drivers.set(name, driver);
    return driver;
  };
}
