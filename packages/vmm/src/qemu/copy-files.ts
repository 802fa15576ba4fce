/**
 * The files of a copy of QEMU:
 *
 *     copy.json        its version, and the size and SHA-256 of every other file
 *     bin/torpor-qemu  the ELF loader; the kernel names the process after it, in `ps` and elsewhere
 *     lib/             the program and its shared libraries
 *     modules/         those of QEMU's own modules that a sandbox needs, in builds that have any
 *     firmware/        what QEMU loads into the machine
 *
 * INVARIANT: a copy's key is a hash of its description, so that the key vouches for every byte.
 */
import { createHash } from "node:crypto";
import { createReadStream } from "node:fs";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { TorporError, parseJson, parseObject, systemCode } from "@torpor/std";

export const copyParts = {
  description: "copy.json",
  loader: "bin/torpor-qemu",
  program: "lib/qemu-system-x86_64",
  libraries: "lib",
  modules: "modules",
  firmware: "firmware",
} as const;

/** LIMIT: 64 bits of SHA-256 tell apart every copy a machine will ever hold. */
const keyChars = 16;
const readChunkBytes = 1024 * 1024;

export interface CopiedFile {
  /** Relative to the copy's folder. */
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}

export interface CopyDescription {
  readonly version: string;
  readonly files: readonly CopiedFile[];
}

export function copyKey({ version, files }: CopyDescription): string {
  const sorted = files
    .map(({ path, bytes, sha256 }) => [path, bytes, sha256] as const)
    .toSorted(([a], [b]) => (a < b ? -1 : 1));
  const text = JSON.stringify([version, sorted]);
  return createHash("sha256").update(text).digest("hex").slice(0, keyChars);
}

/** @param path What it is called in the copy. */
export async function describeFile(path: string, source: string): Promise<CopiedFile> {
  const hash = createHash("sha256");
  let bytes = 0;
  const stream = createReadStream(source, { highWaterMark: readChunkBytes });
  for await (const chunk of stream as AsyncIterable<Buffer>) {
    hash.update(chunk);
    bytes += chunk.length;
  }
  return { path, bytes, sha256: hash.digest("hex") };
}

export async function writeDescription(
  folder: string,
  description: CopyDescription,
): Promise<void> {
  const text = `${JSON.stringify(description, undefined, 2)}\n`;
  await writeFile(join(folder, copyParts.description), text, { mode: 0o400 });
}

/** @throws vmm.damaged */
export async function readDescription(folder: string): Promise<CopyDescription> {
  const path = join(folder, copyParts.description);
  try {
    const description = parseObject(parseJson(await readFile(path, "utf8"), path), path);
    // The key, a hash of it, tells whether it is what was written.
    return description as unknown as CopyDescription;
  } catch (cause) {
    throw damaged(
      folder,
      path,
      systemCode(cause) === "ENOENT" ? "is missing" : "is damaged",
      cause,
    );
  }
}

/** @throws vmm.damaged naming the first file that is not what it was. */
export async function verifyCopy(folder: string, key: string): Promise<void> {
  const description = await readDescription(folder);
  if (!isOf(key, description)) {
    throw damaged(folder, join(folder, copyParts.description), "is damaged");
  }
  for (const { path, bytes, sha256 } of description.files) {
    const full = join(folder, path);
    const found = await describeFile(path, full).catch((cause: unknown) => {
      const isMissing = systemCode(cause) === "ENOENT";
      throw damaged(folder, full, isMissing ? "is missing" : "cannot be read", cause);
    });
    if (found.bytes !== bytes || found.sha256 !== sha256) {
      throw damaged(folder, full, "does not match its checksum");
    }
  }
}

/** False as well for one that is no description at all. */
function isOf(key: string, description: CopyDescription): boolean {
  try {
    return copyKey(description) === key;
  } catch {
    return false;
  }
}

function damaged(folder: string, path: string, what: string, cause?: unknown): TorporError {
  return new TorporError("vmm.damaged", `${path}, of a copy of QEMU, ${what}`, {
    cause,
    advice:
      "Run `torpor up`, which mends the copy while the QEMU it was made of is installed with the same " +
      `libraries; otherwise put ${folder} back from a backup.`,
  });
}
