/**
 * Two operations that Node lacks: making a pipe, socket or device file (mknod(2)), and setting a
 * file's times to the nanosecond, even those of a link itself (utimensat(2)). Both run in Node's
 * thread pool.
 */
import { type DiskPath, terminated } from "./disk-path.ts";
import { lastErrno, libc, systemError } from "./libc.ts";

const AT_FDCWD = -100;
const AT_SYMLINK_NOFOLLOW = 0x100;
const nanosecondsPerSecond = 1_000_000_000n;

type Done = (error: Error | null, result: number) => void;

const mknod = libc.func(
  "int mknod(const char *path, uint32_t mode, uint64_t device)",
) as unknown as {
  async(path: DiskPath, mode: number, device: number, done: Done): void;
};
const utimensat = libc.func(
  "int utimensat(int folder, const char *path, const void *times, int flags)",
) as unknown as {
  async(folder: number, path: DiskPath, times: Buffer, flags: number, done: Done): void;
};

/**
 * Makes a file node.
 * @param mode Type and permissions, as in `stat`.
 * @throws system error EEXIST, EPERM
 */
export async function makeNode(path: DiskPath, mode: number, device: number): Promise<void> {
  await call("mknod", (done) => mknod.async(terminated(path), mode, device, done));
}

/** Sets the times of a file or of a link itself, in nanoseconds since 1970. @throws system error */
export async function setFileTimes(
  path: DiskPath,
  accessedNs: bigint,
  modifiedNs: bigint,
): Promise<void> {
  const times = Buffer.alloc(32);
  for (const [index, time] of [accessedNs, modifiedNs].entries()) {
    // Before 1970 the seconds are negative, but the nanoseconds are not.
    const rest = ((time % nanosecondsPerSecond) + nanosecondsPerSecond) % nanosecondsPerSecond;
    times.writeBigInt64LE((time - rest) / nanosecondsPerSecond, index * 16);
    times.writeBigInt64LE(rest, index * 16 + 8);
  }
  await call("utimensat", (done) =>
    utimensat.async(AT_FDCWD, terminated(path), times, AT_SYMLINK_NOFOLLOW, done),
  );
}

async function call(name: string, begin: (done: Done) => void): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  begin((error, result) => {
    if (error !== null) reject(error);
    else if (result === -1) reject(systemError(lastErrno(), name));
    else resolve();
  });
  await promise;
}
