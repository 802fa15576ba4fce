/** Where a process maps a file. */
import { readFileSync, realpathSync } from "node:fs";

export interface FileMapping {
  /** Addresses in the process. */
  readonly start: number;
  readonly end: number;
  /** In the file, of what is at `start`. */
  readonly offsetBytes: number;
}

/**
 * Each line of /proc/PID/maps is "start-end perms offset device inode path" (proc(5)), ascending.
 * @throws system error ENOENT when the process or the file is gone
 */
export function fileMappings(pid: number, path: string): readonly FileMapping[] {
  // The kernel writes where a file is, not by which symbolic links it was reached.
  const mapped = realpathSync(path);
  const lines = readFileSync(`/proc/${pid}/maps`, "utf8").split("\n");
  return (
    lines
      // A confined process sees it by the path it was given.
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
