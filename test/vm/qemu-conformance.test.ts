/** The QEMU driver on real VMs, confined as the daemon confines them, does what every driver must do. */
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TemplateStore, defaultCacheFolder, templatesFolder, vmmCopyFolder } from "@torpor/storage";
import { testConformance } from "@torpor/testing";
import { QemuDriver, copiedQemu, defaultUserIds, installedQemu, openCgroups } from "@torpor/vmm";
import { makeGuestRig } from "./conformance-rig.ts";

/** KVM writes the time anew where the guest once asked it for the time of its boot, on a page of its own. */
const pagesRenewedMax = { kvm: 1, tcg: 0 } as const;

test("QEMU is driven as every VMM", async (t) => {
  const template = await new TemplateStore(templatesFolder(defaultCacheFolder())).open("base");
  const { vmmCopy, identity } = template.manifest;
  if (identity.vmm !== "qemu") return t.skip("not run: the base template is none of QEMU's");
  const driver = new QemuDriver({
    accelerator: identity.accelerator,
    program:
      vmmCopy === undefined
        ? installedQemu()
        : copiedQemu(vmmCopyFolder(defaultCacheFolder(), vmmCopy), vmmCopy),
    confinement:
      process.getuid?.() === 0 ? { userIds: defaultUserIds, cgroups: openCgroups() } : undefined,
  });
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-conformance-"));
  const renewedMax = pagesRenewedMax[identity.accelerator];
  await testConformance(t, makeGuestRig(driver, template, folder.path, renewedMax));
});
