/** Size and SHA-256 of a whole file, made when it is saved and checked before it is loaded. */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { TorporError } from "@torpor/std";
import type { FileDigest } from "./manifest.ts";

/** For device state and other small files; the file is read at once. */
export async function digestFile(path: string): Promise<FileDigest> {
  const content = await readFile(path);
  return {
    bytes: content.length,
    sha256: createHash("sha256").update(content).digest("hex"),
  };
}

/** @throws snapshot.corrupt naming the file. */
export async function verifyFile(path: string, expected: FileDigest): Promise<void> {
  const actual = await digestFile(path).catch((cause: unknown) => {
    throw new TorporError("snapshot.corrupt", `${path} cannot be read`, { cause });
  });
  if (actual.bytes !== expected.bytes || actual.sha256 !== expected.sha256) {
    throw new TorporError("snapshot.corrupt", `${path} does not match its checksum`);
  }
}
