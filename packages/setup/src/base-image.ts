/**
 * The files that every template boots from: kernel, initramfs and base disk, built once and kept.
 *
 * They come from four layers (see layers.ts): `kernel` and `rootfs` are fetched from Debian, `npm`
 * from npm's registry, `base` is made of those and the agent, without the network. Debian's own
 * versions are not part of a key, so a built layer stays in use until its recipe changes or its
 * folder is removed. This module never removes old `base` layers: the disks of sandboxes are
 * overlays on them.
 */
import { mkdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { Deadline, TorporError, runCommand } from "@torpor/std";
import { buildDiskImage, diskBytesDefault } from "./disk-image.ts";
import {
  addGuestFiles,
  defaultNodeModulesDir,
  guestFilesInputs,
  guestNodePath,
} from "./guest-files.ts";
import { buildGuestNpmLayer, guestNpmInputs } from "./guest-npm.ts";
import { buildInitramfs, initramfsInit } from "./initramfs.ts";
import { buildKernelLayer, kernelMetaPackage, kernelModules, loadKernelLayer } from "./kernel.ts";
import {
  ensureLayer,
  exists,
  hashFile,
  layerKey,
  layerPath,
  removeStaleStaging,
  removeTree,
  withCacheLock,
} from "./layers.ts";
import { shareCommand } from "./shared-cache.ts";
import { type Progress, silentProgress } from "./progress.ts";
import { buildRootfsLayer, guestRelease, rootfsInputs } from "./rootfs.ts";

/** Raise a number when the way that layer is built changes but none of its inputs does. */
const recipes = { kernel: 1, rootfs: 1, npm: 1, base: 2 } as const;

const kernelBudgetMs = 15 * 60_000;
const rootfsBudgetMs = 60 * 60_000;
const npmBudgetMs = 10 * 60_000;
const diskBudgetMs = 10 * 60_000;
/** The builder that holds the lock may have all of it to do. */
const lockBudgetMs = 90 * 60_000;

/** Where a base image is kept and what it is made of. */
export interface BaseImageOptions {
  /** The folder of the layers; made when it is missing. Readable by its owner only. */
  readonly cacheDir: string;
  /** The agent as one file of JavaScript. */
  readonly agentBundle: string;
  readonly progress?: Progress;
  readonly diskBytes?: number;
  /** Holds `koffi` and the pinned Node; the workspace's own by default. */
  readonly nodeModulesDir?: string;
}

/** The files of a base image; they are shared and never change. */
export interface BaseImage {
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /** Raw and sparse. INVARIANT: nothing writes to it; every VM uses an overlay. */
  readonly diskPath: string;
  readonly diskBytes: number;
  /** `uname -r` of the guest. */
  readonly kernelVersion: string;
  /** A hash of all inputs: the same hash means the same files. */
  readonly inputsHash: string;
}

/**
 * Returns the base image, building what is missing; takes milliseconds when nothing is. Safe to
 * repeat and to run twice at once: the second call waits. Building needs root and, for Debian's
 * part, the network.
 */
export async function prepareBaseImage(options: BaseImageOptions): Promise<BaseImage> {
  const { cacheDir, progress = silentProgress } = options;
  const found = await findBaseImage(options);
  if (found !== undefined) return found;
  if (process.getuid?.() !== 0) {
    throw new TorporError(
      "root.required",
      `${cacheDir} has no template, and only root can build it`,
      {
        advice: `Run as root, once: ${shareCommand(cacheDir)}`,
      },
    );
  }
  return withCacheLock(
    cacheDir,
    Deadline.after(lockBudgetMs, "waiting for another set-up"),
    () => progress.note("Another set-up is building the guest system: waiting for it"),
    async () => {
      await removeStaleStaging(cacheDir);
      await ensureKernel(cacheDir, progress);
      await ensureRootfs(cacheDir, progress);
      await ensureGuestNpm(cacheDir, progress);
      await ensureBase(options, progress);
      const built = await findBaseImage(options);
      if (built === undefined) {
        throw new TorporError("internal", "the base image is not where it was built");
      }
      return built;
    },
  );
}

/** Finds the base image for these inputs, if it exists. Touches nothing. */
async function findBaseImage(options: BaseImageOptions): Promise<BaseImage | undefined> {
  const { cacheDir } = options;
  const kernelDir = layerPath(cacheDir, "kernel", kernelKey());
  if (!(await exists(kernelDir))) return undefined;
  const kernel = await loadKernelLayer(kernelDir);
  const key = await baseKey(options, kernel.packageVersion);
  const dir = layerPath(cacheDir, "base", key);
  if (!(await exists(dir))) return undefined;
  return {
    kernelPath: kernel.vmlinuzPath,
    initramfsPath: join(dir, "initramfs.cpio"),
    diskPath: join(dir, "disk.raw"),
    diskBytes: (await stat(join(dir, "disk.raw"))).size,
    kernelVersion: kernel.version,
    inputsHash: key,
  };
}

async function ensureKernel(cacheDir: string, progress: Progress): Promise<void> {
  const key = kernelKey();
  if (await exists(layerPath(cacheDir, "kernel", key))) return;
  await progress.step("Guest kernel", async (report) => {
    const deadline = Deadline.after(kernelBudgetMs, "fetching the guest kernel");
    await ensureLayer(cacheDir, "kernel", key, async (dir) =>
      buildKernelLayer(dir, guestRelease, kernelModules, report, deadline),
    );
  });
}

async function ensureRootfs(cacheDir: string, progress: Progress): Promise<void> {
  const key = rootfsKey();
  if (await exists(layerPath(cacheDir, "rootfs", key))) return;
  await progress.step("Guest system", async (report) => {
    const deadline = Deadline.after(rootfsBudgetMs, "building the guest system");
    await ensureLayer(cacheDir, "rootfs", key, async (dir) =>
      buildRootfsLayer(dir, report, deadline),
    );
  });
}

async function ensureGuestNpm(cacheDir: string, progress: Progress): Promise<void> {
  const key = guestNpmKey();
  if (await exists(layerPath(cacheDir, "npm", key))) return;
  await progress.step("Guest npm", async () => {
    const deadline = Deadline.after(npmBudgetMs, "fetching npm for the guest");
    await ensureLayer(cacheDir, "npm", key, async (dir) => buildGuestNpmLayer(dir, deadline));
  });
}

async function ensureBase(options: BaseImageOptions, progress: Progress): Promise<void> {
  const { cacheDir, agentBundle } = options;
  const kernel = await loadKernelLayer(layerPath(cacheDir, "kernel", kernelKey()));
  const key = await baseKey(options, kernel.packageVersion);
  if (await exists(layerPath(cacheDir, "base", key))) return;
  const nodeModulesDir = options.nodeModulesDir ?? defaultNodeModulesDir();
  await progress.step("Base disk", async (report) => {
    const deadline = Deadline.after(diskBudgetMs, "making the base disk");
    await ensureLayer(cacheDir, "base", key, async (dir) => {
      const rootDir = join(dir, "root");
      await mkdir(rootDir);
      report(0, "unpacking");
      const archive = join(layerPath(cacheDir, "rootfs", rootfsKey()), "rootfs.tar");
      await runCommand(
        [
          ...(["tar", "--extract", "--file", archive, "--directory", rootDir] as const),
          ...["--numeric-owner", "--xattrs", "--xattrs-include=*"],
        ],
        deadline,
      );
      report(0.3, "adding the agent");
      const nodePath = guestNodePath(nodeModulesDir);
      const npmDir = layerPath(cacheDir, "npm", guestNpmKey());
      await addGuestFiles(rootDir, { nodePath, npmDir, agentBundle, nodeModulesDir });
      await buildInitramfs(join(dir, "initramfs.cpio"), {
        busyboxPath: join(rootDir, "usr/bin/busybox"),
        modulePaths: kernel.modulePaths,
      });
      report(0.5, "writing the disk");
      const diskBytes = options.diskBytes ?? diskBytesDefault;
      const diskPath = join(dir, "disk.raw");
      await buildDiskImage({ rootDir, outPath: diskPath, diskBytes }, deadline);
      report(0.9, "cleaning up");
      await removeTree(rootDir);
    });
  });
}

function kernelKey(): string {
  return layerKey({
    recipe: recipes.kernel,
    release: guestRelease,
    package: kernelMetaPackage,
    modules: kernelModules,
  });
}

function rootfsKey(): string {
  return layerKey({ recipe: recipes.rootfs, ...rootfsInputs });
}

function guestNpmKey(): string {
  return layerKey({ recipe: recipes.npm, ...guestNpmInputs });
}

async function baseKey(options: BaseImageOptions, kernelPackageVersion: string): Promise<string> {
  const files = await guestFilesInputs(options.nodeModulesDir ?? defaultNodeModulesDir());
  return layerKey({
    recipe: recipes.base,
    kernel: kernelKey(),
    kernelPackageVersion,
    rootfs: rootfsKey(),
    npm: guestNpmKey(),
    agent: await hashFile(options.agentBundle),
    initramfs: initramfsInit(kernelModules),
    diskBytes: options.diskBytes ?? diskBytesDefault,
    ...files,
  });
}
