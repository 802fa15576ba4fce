/**
 * Everything that a machine needs before the daemon can start, in order: Debian packages, the guest
 * system, a copy of QEMU, the choice of accelerator, the base template. Each part is skipped when
 * it exists, so a second run takes a second.
 */
import { join } from "node:path";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { bundleAgent } from "@torpor/agent";
import { TorporError } from "@torpor/std";
import type { Template } from "@torpor/storage";
import { chooseAccelerator } from "./accelerator.ts";
import { type BaseImage, prepareBaseImage } from "./base-image.ts";
import { ensureDebianPackages } from "./debian-packages.ts";
import { type Progress, silentProgress } from "./progress.ts";
import { findSharedTemplate, isShared, shareCache } from "./shared-cache.ts";
import { baseTemplateName, prepareTemplate } from "./template.ts";
import { ensureVmmCopy } from "./vmm-copy.ts";
import { type VmmKind, defaultVmm } from "./vmm-choice.ts";

/** Where set-up keeps what it makes, and for whom. */
export interface SetUpOptions {
  readonly cacheFolder: string;
  readonly progress: Progress;
  /** The value of TORPOR_VMM unless given. */
  readonly vmmKind?: VmmKind;
  /** Lets other users of the machine read the cache; see shared-cache.ts. */
  readonly share?: boolean;
}

const withoutRoot =
  "Without root VMs are not confined: they run as this user, and their network is QEMU's own, which leads nowhere.";

/**
 * Returns the guest's kernel and system as they are before the first boot, building them when they
 * are missing.
 */
export async function baseImage(
  cacheFolder: string,
  progress: Progress = silentProgress,
): Promise<BaseImage> {
  await using undo = new AsyncDisposableStack();
  const bundleFolder = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-bundle-")), (folder) =>
    rm(folder, { recursive: true, force: true }),
  );
  const agentBundle = join(bundleFolder, "agent.mjs");
  await bundleAgent(agentBundle);
  return await prepareBaseImage({ cacheDir: cacheFolder, agentBundle, progress });
}

/**
 * Sets up this machine. Safe to repeat, and to run twice at once. @throws root.required,
 * command.failed, vmm.missing …
 */
export async function setUp({
  cacheFolder,
  progress,
  vmmKind = defaultVmm(),
  share = false,
}: SetUpOptions): Promise<Template> {
  await ensureDebianPackages({ progress });
  if (process.getuid?.() !== 0) {
    const template = await findSharedTemplate(cacheFolder, baseTemplateName);
    progress.note(withoutRoot);
    if (template !== undefined) return template;
  }
  const template = await build({ cacheFolder, progress, vmmKind });
  if (share || (await isShared(cacheFolder))) {
    await shareCache(cacheFolder);
    progress.note(
      `${cacheFolder} may be read by every user of this machine, all templates included.`,
    );
  }
  return template;
}

async function build({
  cacheFolder,
  progress,
  vmmKind,
}: Required<Omit<SetUpOptions, "share">>): Promise<Template> {
  const base = await baseImage(cacheFolder, progress);
  const vmm = await ensureVmmCopy({ cacheFolder, progress });
  const { program } = vmm;
  const { accelerator, reason } = await chooseAccelerator({ cacheFolder, base, program, progress });
  if (vmmKind === "firecracker" && accelerator !== "kvm") {
    throw new TorporError("vmm.missing", `Firecracker needs KVM: ${reason}`, {
      advice: "Run sandboxes under QEMU: leave TORPOR_VMM out.",
    });
  }
  if (accelerator === "tcg") {
    progress.note(
      `Guests run under software emulation: ${reason}. It is slow and, by QEMU's own policy, not a security boundary.`,
    );
  }
  return await prepareTemplate({ cacheFolder, base, vmm, vmmKind, accelerator, progress });
}
