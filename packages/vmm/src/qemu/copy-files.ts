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

/** Paths inside a copy's folder. */
export const copyParts = {
  description: "copy.json",
  loader: "bin/torpor-qemu",
  program: "lib/qemu-system-x86_64",
  libraries: "lib",
  modules: "modules",
  firmware: "firmware",
} as const;

/** LIMIT: 64 bits of SHA-256 distinguish all copies that a machine will ever hold. */
const keyChars = 16;
const readChunkBytes = 1024 * 1024;

/** One file of a copy. */
export interface CopiedFile {
  /** Relative to the copy's folder. */
  readonly path: string;
  readonly bytes: number;
  readonly sha256: string;
}

/** The content of copy.json. */
export interface CopyDescription {
  readonly version: string;
  readonly files: readonly CopiedFile[];
}

/** The key of a copy: the first 64 bits of a SHA-256, in hex. */
export function copyKey({ version, files }: CopyDescription): string {
  const sorted = files
    .map(({ path, bytes, sha256 }) => [path, bytes, sha256] as const)
    .toSorted(([a], [b]) => (a < b ? -1 : 1));
  const text = JSON.stringify([version, sorted]);
  return createHash("sha256").update(text).digest("hex").slice(0, keyChars);
}

/** Hashes a file. @param path Its path in the copy. */
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

/** Writes copy.json into the copy's folder. */
export async function writeDescription(
  folder: string,
  description: CopyDescription,
): Promise<void> {
  const text = `${JSON.stringify(description, undefined, 2)}\n`;
  await writeFile(join(folder, copyParts.description), text, { mode: 0o400 });
}

/** Reads copy.json without checking it. @throws vmm.damaged if it is missing or is not JSON */
export async function readDescription(folder: string): Promise<CopyDescription> {
  const path = join(folder, copyParts.description);
  try {
    const description = parseObject(parseJson(await readFile(path, "utf8"), path), path);
    // Not checked here: the key, a hash of it, shows whether it is what was written.
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

/**
 * Reads and compares every file of a copy.
 * @throws vmm.damaged naming the first file that differs.
 */
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

/** Whether the key is that of the description; also false for data that is no description. */
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
