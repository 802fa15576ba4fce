/**
 * Writing so that a power cut leaves the old or the new, never a mixture.
 *
 * ORDER: contents are flushed before the name appears, and the folder that holds the name is
 * flushed after; otherwise a crash can leave a name that points at nothing.
 */
import { open, rename } from "node:fs/promises";
import { dirname } from "node:path";

/** Flushes a file, or the names inside a folder. */
export async function flush(path: string): Promise<void> {
  await using handle = await open(path, "r");
  await handle.sync();
}

/** Replaces the whole content of `path`. */
export async function writeFileDurably(
  path: string,
  content: string | Uint8Array,
  mode = 0o600,
): Promise<void> {
  const staged = `${path}.${process.pid}.new`;
  {
    await using handle = await open(staged, "w", mode);
    await handle.writeFile(content);
    await handle.sync();
  }
  await renameDurably(staged, path);
}

/** Moves a finished file or folder to its public name. */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to);
  await flush(dirname(to));
}
