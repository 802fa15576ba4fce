/**
 * The snapshots of one sandbox: staged beside their final place, published by one rename.
 *
 * INVARIANT: at every instant, also of a power cut, the newest published snapshot is whole, and an
 * older one is removed only after a newer one is durable.
 */
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { flushFolder, renameDurably } from "@torpor/std";
import type { SandboxFolder } from "./folders.ts";
import { type SnapshotManifest, readSnapshotManifest, writeManifest } from "./manifest.ts";

const stagedSuffix = ".staged";

export interface StagedSnapshot extends AsyncDisposable {
  readonly path: string;
  /** Makes it the newest snapshot; from here on it survives. */
  publish(manifest: SnapshotManifest): Promise<void>;
}

/**
 * A new folder to write a snapshot into. Disposing it leaves no trace, not even of a `publish` that
 * failed half-way: a run that goes on must never find a snapshot of itself.
 */
export async function stageSnapshot(
  folder: SandboxFolder,
  generation: number,
): Promise<StagedSnapshot> {
  const path = `${folder.snapshot(generation)}${stagedSuffix}`;
  await rm(path, { recursive: true, force: true });
  await mkdir(path, { recursive: true, mode: 0o700 });
  return {
    path,
    publish: async (manifest) => {
      await writeManifest(path, manifest);
      await flushFolder(path);
      await renameDurably(path, folder.snapshot(generation));
    },
    [Symbol.asyncDispose]: async () => {
      await rm(path, { recursive: true, force: true });
      await rm(folder.snapshot(generation), { recursive: true, force: true });
    },
  };
}

export const snapshotFiles = { deviceState: "device.state" } as const;

/** @throws snapshot.corrupt or snapshot.incompatible. */
export async function openSnapshot(
  folder: SandboxFolder,
  generation: number,
): Promise<SnapshotManifest> {
  return await readSnapshotManifest(folder.snapshot(generation));
}

/** Removes everything but the snapshot of `keepGeneration`, half-written ones included. */
export async function removeOtherSnapshots(
  folder: SandboxFolder,
  keepGeneration: number,
): Promise<void> {
  await mkdir(folder.snapshots, { recursive: true, mode: 0o700 });
  for (const name of await readdir(folder.snapshots)) {
    if (name === String(keepGeneration)) continue;
    await rm(join(folder.snapshots, name), { recursive: true, force: true });
  }
}

/** Removes what was being written when the daemon ended; nobody will finish it. */
export async function removeStagedSnapshots(folder: SandboxFolder): Promise<void> {
  await mkdir(folder.snapshots, { recursive: true, mode: 0o700 });
  for (const name of await readdir(folder.snapshots)) {
    if (!name.endsWith(stagedSuffix)) continue;
    await rm(join(folder.snapshots, name), { recursive: true, force: true });
  }
}
