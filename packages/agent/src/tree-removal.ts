/**
 * Removes a file, or a folder with everything in it. A file that does not exist counts as removed.
 */
import { join } from "node:path";
import { systemCode } from "@torpor/std";
import type { FileWork } from "./file-work.ts";

/**
 * LIMIT: files that are removed concurrently; the kernel removes those of one folder one after
 * another.
 */
const removedTogether = 32;

/**
 * Removes what is at `path`.
 * @throws system error, perhaps with a part removed; it may be repeated.
 */
export async function removeTree(path: string, work: FileWork): Promise<void> {
  try {
    await work.unlink(path);
  } catch (cause) {
    if (systemCode(cause) === "EISDIR") await removeFolder(path, work);
    else if (systemCode(cause) !== "ENOENT") throw cause;
  }
}

async function removeFolder(path: string, work: FileWork): Promise<void> {
  try {
    await removeContent(path, work);
    await work.rmdir(path);
  } catch (cause) {
    // Another process removed it at the same time.
    if (systemCode(cause) !== "ENOENT") throw cause;
  }
}

async function removeContent(path: string, work: FileWork): Promise<void> {
  const files: string[] = [];
  const removeFiles = async (): Promise<void> => {
    await Promise.all(files.splice(0).map(async (file) => await removeTree(file, work)));
  };
  for await (const { name, isFolder } of work.entries(path)) {
    const child = join(path, name);
    if (isFolder) await removeFolder(child, work);
    else files.push(child);
    if (files.length >= removedTogether) await removeFiles();
  }
  await removeFiles();
}
