/**
 * The last output of a VM's run, kept when the run's folder is removed: the ends of its console and
 * of its VMM's log, in a folder named for the run's generation. The next run's replace them, and
 * they are removed with the sandbox.
 */
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { systemCode } from "@torpor/std";
import type { SandboxFolder } from "@torpor/storage";
import { openRunFile, runFiles } from "@torpor/vmm";

/** LIMIT: size of each file; a longer one loses its beginning. */
export const lastWordsBytesMax = 256 * 1024;

/** The end of one file of the run with this generation. */
export interface LastWords {
  readonly generation: number;
  readonly bytes: Buffer;
}

/**
 * Keeps the last words of a run in place of those of the run before. Call it before the run's folder is
 * removed. If they cannot be read or written, those of the run before stay.
 */
export async function keepLastWords(folder: SandboxFolder, generation: number): Promise<void> {
  const kept = lastRunOf(folder);
  const to = join(kept, String(generation));
  await using undo = new AsyncDisposableStack();
  undo.defer(() => rm(to, { recursive: true, force: true }));
  await mkdir(to, { recursive: true, mode: 0o700 });
  for (const name of [runFiles.console, runFiles.log]) {
    const end = await readEnd(join(folder.run(generation), name));
    await writeFile(join(to, name), end, { mode: 0o600 });
  }
  undo.move();
  for (const other of await generationsIn(kept)) {
    if (other !== generation) await rm(join(kept, String(other)), { recursive: true, force: true });
  }
}

/**
 * Reads the last words that are kept of one file.
 * @param name Name of a file of the run. @returns undefined if none are kept
 */
export async function readLastWords(
  folder: SandboxFolder,
  name: string,
): Promise<LastWords | undefined> {
  try {
    const generation = Math.max(...(await generationsIn(lastRunOf(folder))));
    const bytes = await readFile(join(lastRunOf(folder), String(generation), name));
    return { generation, bytes };
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw cause;
  }
}

/** More than one where the daemon was killed between writing the newer and removing the older. */
async function generationsIn(lastRun: string): Promise<readonly number[]> {
  return (await readdir(lastRun)).map(Number);
}

function lastRunOf({ path }: SandboxFolder): string {
  return join(path, "last-run");
}

async function readEnd(path: string): Promise<Buffer> {
  await using file = await openRunFile(path, "read");
  const { size } = await file.stat();
  const length = Math.min(size, lastWordsBytesMax);
  const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, size - length);
  return buffer.subarray(0, bytesRead);
}
