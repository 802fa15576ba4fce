/** The addresses at which a process maps a file. */
import { readFileSync, realpathSync } from "node:fs";

/** One mapping of a file, half-open. */
export interface FileMapping {
  /** Addresses in the process. */
  readonly start: number;
  readonly end: number;
  /** The offset in the file that is mapped at `start`. */
  readonly offsetBytes: number;
}

/**
 * Reads the mappings of a file, ascending. Each line of /proc/PID/maps is "start-end perms offset
 * device inode path" (proc(5)).
 * @throws system error ENOENT if the process or the file is gone
 */
export function fileMappings(pid: number, path: string): readonly FileMapping[] {
  // The kernel reports the file's real path, not the symbolic links that led to it.
  const mapped = realpathSync(path);
  const lines = readFileSync(`/proc/${pid}/maps`, "utf8").split("\n");
  return (
    lines
      // For a confined process the kernel reports the path that the process was given.
      .filter((line) => line.endsWith(` ${mapped}`) || line.endsWith(` ${path}`))
      .map((line) => {
        const [range = "", , offset = ""] = line.split(" ");
        const [start = 0, end = 0] = range
          .split("-")
          .map((address) => Number.parseInt(address, 16));
        return { start, end, offsetBytes: Number.parseInt(offset, 16) };
      })
  );
}
