/**
 * Checksums of the large files of a folder, in a file beside them: too many for a manifest that is read
 * with every use.
 */
import { createHash } from "node:crypto";
import { readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { TorporError, parseJson, parseObject, systemCode } from "@torpor/std";
import { type ChunkDigest, digestChunks, parseChunkDigest, verifyChunks } from "./chunk-digest.ts";

const checksumsName = "checksums.json";

/** Not flushed: it becomes durable with the folder it is published in. */
export async function writeChecksums(folder: string, paths: readonly string[]): Promise<void> {
  const digests: Record<string, ChunkDigest> = {};
  for (const path of paths) digests[basename(path)] = await digestChunks(path);
  await writeFile(join(folder, checksumsName), JSON.stringify(digests), { mode: 0o400 });
}

/**
 * What the folder's files are, as one SHA-256 in hex: that of their checksums, which never change once they
 * are written. Undefined where there are none.
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

/** @throws snapshot.corrupt naming the first file that is missing or not as it was. */
export async function verifyChecksums(folder: string): Promise<void> {
  const path = join(folder, checksumsName);
  const digests = await readChecksums(path).catch((cause: unknown) => {
    throw new TorporError("snapshot.corrupt", `${path} cannot be read`, { cause });
  });
  for (const [name, digest] of digests) {
    await verifyChunks(join(folder, name), digest);
  }
}

/** Ours, but what a disk returns may be damaged. @throws argument.invalid */
async function readChecksums(path: string): Promise<readonly (readonly [string, ChunkDigest])[]> {
  const digests = parseObject(parseJson(await readFile(path, "utf8"), path), path);
  return Object.entries(digests).map(([name, digest]) => [name, parseChunkDigest(digest, name)]);
}
