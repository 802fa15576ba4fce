/**
 * The description that makes a folder of files a snapshot or a template: a JSON file with a format
 * number and a checksum over itself.
 *
 * A reader refuses an unknown format and a changed description before it looks at any other file.
 */
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  TorporError,
  parseJson,
  parseObject,
  systemCode,
  writeFileDurably,
  shownValue,
} from "@torpor/std";
import type { ChunkDigest } from "./chunk-digest.ts";
import type { MemoryLayerDigest } from "./memory-layer.ts";

const manifestName = "manifest.json";
const templateFormat = "torpor-template-3";
/** The format of the snapshots that this version writes. */
export const snapshotFormat = "torpor-snapshot-3";
/** The older format that differs only in its host key, which is not sealed. */
export const plainSnapshotFormat = "torpor-snapshot-2";

/** The machine that device state is tied to; the VMM package compares it before a load. */
export interface SavedIdentity {
  readonly vmm: "qemu" | "firecracker";
  readonly version: string;
  readonly accelerator: "kvm" | "tcg";
  readonly cpuFingerprint: string;
  readonly tscKhz: number;
}

/** The virtual hardware of a saved machine. */
export interface SavedMachine {
  /** The hardware that the guest sees, in the VMM's own words; compared before a load. */
  readonly guestVisible: readonly string[];
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly kernelArguments: string;
  readonly guestMac: string;
}

/** The description of a published template. */
export interface TemplateManifest {
  readonly format: typeof templateFormat;
  readonly templateId: string;
  readonly name: string;
  readonly createdAtMs: number;
  readonly identity: SavedIdentity;
  /** Key of the copy of the VMM that its sandboxes run; without one they run the installed VMM. */
  readonly vmmCopy?: string;
  readonly machine: SavedMachine;
  readonly diskBytes: number;
  readonly deviceState: ChunkDigest;
  /** Authorises the first private call to a guest restored from this template. */
  readonly hostKey: string;
  /** The generation the guest was saved in; every restore has a larger one. */
  readonly generation: number;
}

/**
 * Where the memory of a snapshot is. `layers`: differences from the template's image, oldest first,
 * the last one in the snapshot's own folder. `whole`: in the file of the device state, as the VMM's
 * own save writes it.
 */
export type SavedMemory =
  | { readonly kind: "layers"; readonly layers: readonly SavedMemoryLayer[] }
  | { readonly kind: "whole" };

/** A memory layer that a snapshot is built on, and its checksums. */
export interface SavedMemoryLayer {
  /** The snapshot whose folder holds it. */
  readonly snapshotId: string;
  readonly digest: MemoryLayerDigest;
}

/** A disk layer that a snapshot is built on, and its checksums. */
export interface SavedDiskLayer {
  readonly layerId: string;
  readonly digest: ChunkDigest;
}

/** The description of a published snapshot. */
export interface SnapshotManifest {
  readonly format: typeof snapshotFormat;
  readonly snapshotId: string;
  /** The sandbox that was saved; its forks have ids of their own. */
  readonly sandboxId: string;
  readonly templateId: string;
  /**
   * Identifies the template's content, which memory and disk are differences from; earlier versions
   * did not record it.
   */
  readonly templateSha256?: string;
  readonly generation: number;
  readonly createdAtMs: number;
  readonly identity: SavedIdentity;
  /** The VMM's command line, for finding out why a snapshot does not load. */
  readonly commandLine: readonly string[];
  /** Authorises the first private call to a guest restored from this snapshot. Sealed in the file. */
  readonly hostKey: string;
  readonly memory: SavedMemory;
  readonly deviceState: ChunkDigest;
  /** The disk layers that belong to this instant, oldest first, above the template's disk. */
  readonly disk: readonly SavedDiskLayer[];
}

/** A snapshot of an earlier version; see `sealSnapshots`. */
export interface PlainSnapshotManifest extends Omit<SnapshotManifest, "format"> {
  readonly format: typeof plainSnapshotFormat;
}

type AnyManifest = TemplateManifest | SnapshotManifest | PlainSnapshotManifest;

/**
 * Writes the manifest of a staged folder. Not flushed: it becomes durable with the folder it is
 * published in.
 */
export async function writeManifest(
  folder: string,
  manifest: TemplateManifest | SnapshotManifest,
): Promise<void> {
  await writeFile(join(folder, manifestName), manifestText(manifest), { mode: 0o600 });
}

/** Replaces the manifest of a published snapshot. */
export async function replaceManifest(folder: string, manifest: SnapshotManifest): Promise<void> {
  await writeFileDurably(join(folder, manifestName), manifestText(manifest));
}

/**
 * Reads and checks a template's manifest. @throws template.missing when there is none,
 * snapshot.corrupt or snapshot.incompatible.
 */
export function readTemplateManifest(folder: string): Promise<TemplateManifest> {
  return readManifest<TemplateManifest>(folder, [templateFormat]);
}

/** Reads and checks a snapshot's manifest. @throws snapshot.corrupt or snapshot.incompatible. */
export function readSnapshotManifest(
  folder: string,
): Promise<SnapshotManifest | PlainSnapshotManifest> {
  return readManifest<SnapshotManifest | PlainSnapshotManifest>(folder, [
    snapshotFormat,
    plainSnapshotFormat,
  ]);
}

async function readManifest<M extends AnyManifest>(
  folder: string,
  formats: readonly M["format"][],
): Promise<M> {
  const path = join(folder, manifestName);
  const file = parseManifestFile(path, readText(path, formats.includes(templateFormat)));
  const manifest = parseObject(file["manifest"], `${path}: manifest`);
  if (!formats.some((format) => format === manifest["format"])) {
    throw new TorporError(
      "snapshot.incompatible",
      `${path} has format ${shownValue(manifest["format"])}; this version reads ${formats.join(", ")}`,
    );
  }
  if (file["digest"] !== digestOf(manifest)) {
    throw new TorporError("snapshot.corrupt", `${path} does not match its checksum`);
  }
  // The checksum proves that this is, field for field, what `writeManifest` was given.
  return manifest as unknown as M;
}

/**
 * Synchronous: every wake waits for these few KiB, and trips through the thread pool take far
 * longer.
 */
function readText(path: string, isTemplate: boolean): string {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    // A template may be missing; a snapshot is looked for only where one was published.
    const missing = isTemplate ? "template.missing" : "snapshot.corrupt";
    const code = systemCode(cause) === "ENOENT" ? missing : "storage.failed";
    throw new TorporError(code, `${path} cannot be read`, { cause });
  }
}

function parseManifestFile(path: string, text: string): Readonly<Record<string, unknown>> {
  try {
    return parseObject(parseJson(text, path), path);
  } catch (cause) {
    throw new TorporError("snapshot.corrupt", `${path} is damaged`, { cause });
  }
}

function manifestText(manifest: AnyManifest): string {
  return `${JSON.stringify({ digest: digestOf(manifest), manifest }, undefined, 2)}\n`;
}

function digestOf(manifest: object): string {
  return createHash("sha256").update(JSON.stringify(manifest)).digest("hex");
}
