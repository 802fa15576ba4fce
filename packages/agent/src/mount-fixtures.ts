/** Mounts for tests, which only root can make. Disposing the result unmounts. */
import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";

/** Mounts an empty file system in memory over a folder. `filesMax` includes its own root. */
export function mountMemory(folder: string, sizeBytes: number, filesMax = 10_000): Disposable {
  const options = `size=${sizeBytes},nr_inodes=${filesMax},mode=755`;
  execFileSync("mount", ["-n", "-t", "tmpfs", "-o", options, "test", folder]);
  return { [Symbol.dispose]: () => void spawnSync("umount", ["-n", "-l", folder]) };
}

/**
 * Mounts a file system on which every operation hangs until it is disposed of. Undefined where none
 * can be made.
 */
export function mountWithoutServer(folder: string): Disposable | undefined {
  const fd = openFuse();
  if (fd === undefined) return undefined;
  const options = "fd=3,rootmode=40000,user_id=0,group_id=0,allow_other";
  const made = spawnSync("mount", ["-i", "-n", "-t", "fuse", "-o", options, "nobody", folder], {
    stdio: ["ignore", "ignore", "ignore", fd],
  });
  let isOpen = true;
  const release = (): void => {
    if (!isOpen) return;
    isOpen = false;
    closeSync(fd);
    spawnSync("umount", ["-i", "-l", folder], { stdio: "ignore" });
  };
  if (made.status === 0) return { [Symbol.dispose]: release };
  release();
  return undefined;
}

function openFuse(): number | undefined {
  try {
    return openSync("/dev/fuse", "r+");
  } catch {
    return undefined;
  }
}
