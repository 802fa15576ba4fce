/** The number of descriptors that this process may have open (RLIMIT_NOFILE of getrlimit(2)). */
import { readFileSync } from "node:fs";

/** LIMIT: Linux's own limit where nobody set one (fs.nr_open). */
const unlimitedDescriptors = 1_048_576;

/**
 * Returns the soft limit. Node raises it at its start as far as it may (`PlatformInit` in its
 * node.cc), so it is the hard limit with which the process was started.
 */
export function descriptorsMax(): number {
  const limits = readFileSync("/proc/self/limits", "utf8");
  const found = /^Max open files\s+(\d+)\s/m.exec(limits);
  return found === null ? unlimitedDescriptors : Number(found[1]);
}
