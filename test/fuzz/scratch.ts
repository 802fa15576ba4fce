/** Files for parsers that read files: one folder of a process, which goes with it. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A million of them are written: in memory, where there is such a folder. */
const memory = "/dev/shm";

let folder: string | undefined;

export function scratchFolder(): string {
  if (folder === undefined) {
    const made = mkdtempSync(join(existsSync(memory) ? memory : tmpdir(), "torpor-fuzz-"));
    process.once("exit", () => rmSync(made, { recursive: true, force: true }));
    folder = made;
  }
  return folder;
}

/** @returns its path */
export function scratchFile(name: string, content: Buffer | string): string {
  const path = join(scratchFolder(), name);
  writeFileSync(path, content);
  return path;
}
