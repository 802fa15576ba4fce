/**
 * Durable writes: after a power cut a path has the old content or the new, never a mixture.
 *
 * ORDER: contents are flushed before the name appears, and the folder that holds the name is
 * flushed after; otherwise a crash can leave a name that points at nothing.
 */
import { open, readdir, rename } from "node:fs/promises";
import { dirname, join } from "node:path";

/** Flushes a file, or the names inside a folder. */
export async function flush(path: string): Promise<void> {
  await using handle = await open(path, "r");
  await handle.sync();
}

/** Flushes everything below a folder, in parallel; each folder after its entries. */
export async function flushFolder(path: string): Promise<void> {
  const entries = await readdir(path, { withFileTypes: true });
  await Promise.all(
    entries.map(async (entry) => {
      if (entry.isDirectory()) await flushFolder(join(path, entry.name));
      else if (entry.isFile()) await flush(join(path, entry.name));
    }),
  );
  await flush(path);
}

/** Replaces the whole content of `path` atomically and flushes it. */
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

/**
 * Moves a finished file or folder to its public name, and flushes the folder that holds that name.
 */
export async function renameDurably(from: string, to: string): Promise<void> {
  await rename(from, to);
  await flush(dirname(to));
}
