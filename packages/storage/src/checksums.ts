/**
 * Checksums of the large files of a folder, in a file beside them: too many for a manifest that
 * every use reads.
 */
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { TorporError, parseJson, parseObject, systemCode } from "@torpor/std";
import { type ChunkDigest, digestChunks, parseChunkDigest, verifyChunks } from "./chunk-digest.ts";

const checksumsName = "checksums.json";

/**
 * Writes the checksums of `paths`, all in `folder`. Not flushed: the file becomes durable with the
 * folder it is published in.
 */
export async function writeChecksums(folder: string, paths: readonly string[]): Promise<void> {
  const digests: Record<string, ChunkDigest> = {};
  for (const path of paths) digests[basename(path)] = await digestChunks(path);
  await writeFile(join(folder, checksumsName), JSON.stringify(digests), { mode: 0o400 });
}

/**
 * Identifies the content of the folder's files by one SHA-256 in hex: that of the checksums file,
 * which never changes once it is written. Undefined where there is none.
 */
export async function contentSha256(folder: string): Promise<string | undefined> {
  try {
    return createHash("sha256")
      .update(await readFile(join(folder, checksumsName)))
      .digest("hex");
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw TorporError.from(cause, "storage.failed");
  }
}

/**
 * Reads every file that has a checksum. @throws snapshot.corrupt naming the first file that is
 * missing or has changed.
 */
export async function verifyChecksums(folder: string): Promise<void> {
  const path = join(folder, checksumsName);
  const digests = await readChecksums(path).catch((cause: unknown) => {
    throw new TorporError("snapshot.corrupt", `${path} cannot be read`, { cause });
  });
  for (const [name, digest] of digests) {
    await verifyChunks(join(folder, name), digest);
  }
}

/** Torpor wrote this file, but a disk may return damaged bytes. @throws argument.invalid */
async function readChecksums(path: string): Promise<readonly (readonly [string, ChunkDigest])[]> {
  const digests = parseObject(parseJson(await readFile(path, "utf8"), path), path);
  return Object.entries(digests).map(([name, digest]) => [name, parseChunkDigest(digest, name)]);
}
