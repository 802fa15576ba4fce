/**
 * A file system that holds nothing but what the caller lists, for one synchronous call and for the
 * processes that are started in it.
 *
 * In a mount namespace of its own (see mount-namespace.ts) the host's file system is gone, and each
 * listed file or folder has the same path as on the host. Nothing of the view is visible outside,
 * and it ends with its last process.
 *
 * INVARIANT: `withView` is synchronous. An `await` inside it would leak the view into other work.
 */
import {
  type Stats,
  chownSync,
  closeSync,
  constants,
  fchmodSync,
  mkdirSync,
  openSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { check, libc } from "./libc.ts";
import { inMountsOf, inOwnMounts } from "./mount-namespace.ts";
import { bind, mount, mountFlag, umount } from "./mount.ts";

const SYS_PIVOT_ROOT = 155;
const MNT_DETACH = 2;
/**
 * LIMIT: size of the file system of folders and empty files to mount on; each takes a page at most.
 */
const rootOptions = "size=1m,mode=755";

const chdir = libc.func("int chdir(const char *path)") as (path: string) => number;
const mknod = libc.func("int mknod(const char *path, unsigned int mode, unsigned long device)") as (
  path: string,
  mode: number,
  device: number,
) => number;
const syscall = libc.func("long syscall(long number, const char *one, const char *other)") as (
  number: number,
  one: string,
  other: string,
) => number;

/** One file, folder or device that is visible. */
export interface ViewEntry {
  /**
   * Absolute path of a file or folder. A folder includes what is in it, but not what is mounted
   * there.
   */
  readonly path: string;
  readonly writable?: boolean;
  readonly executable?: boolean;
  /**
   * Set for a device, which becomes a node of its own that only this user may open, whatever the
   * permissions of the host's node. Other devices cannot be used.
   */
  readonly deviceOwner?: number;
}

/**
 * Runs `work` with this thread inside a new view.
 * @param root An empty folder, on which the view is mounted.
 * @throws system error EPERM without CAP_SYS_ADMIN, ENOENT for an entry that does not exist
 */
export function withView<T>(root: string, entries: readonly ViewEntry[], work: () => T): T {
  return inOwnMounts(() => {
    build(root, entries);
    return work();
  });
}

/**
 * Removes a file, open or not, from the view of a process. A file that is not there counts as
 * removed.
 * @throws system error ENOENT for a process that has ended, EPERM without CAP_SYS_ADMIN
 */
export function hideFrom(pid: number, path: string): void {
  inMountsOf(pid, () => umount(path, MNT_DETACH));
}

function build(root: string, entries: readonly ViewEntry[]): void {
  const { noSetUid, noDevices, readOnly, remount } = mountFlag;
  check(mount("torpor", root, "tmpfs", noSetUid | noDevices, rootOptions), "mount");
  for (const entry of entries) show(root, entry);
  check(mount(null, root, null, remount | noSetUid | noDevices | readOnly, null), "mount");
  check(chdir(root), "chdir");
  check(syscall(SYS_PIVOT_ROOT, ".", "."), "pivot_root");
  check(umount(".", MNT_DETACH), "umount2");
  check(chdir("/"), "chdir");
}

function show(root: string, { path, writable, executable, deviceOwner }: ViewEntry): void {
  const target = join(root, path);
  const { noSetUid, noDevices, noExecute, readOnly } = mountFlag;
  const stat = statSync(path);
  makeFolder(stat.isDirectory() ? target : dirname(target));
  if (deviceOwner !== undefined) {
    makeDevice(target, stat, deviceOwner);
    bind(target, target, noSetUid | noExecute);
    return;
  }
  if (!stat.isDirectory()) writeFileSync(target, "");
  bind(
    path,
    target,
    noSetUid |
      noDevices |
      (executable === true ? 0 : noExecute) |
      (writable === true ? 0 : readOnly),
  );
}

function makeDevice(path: string, { mode, rdev }: Stats, owner: number): void {
  check(mknod(path, (mode & constants.S_IFMT) | 0o600, rdev), "mknod");
  chownSync(path, owner, owner);
}

/** Makes a folder that every user may pass, whatever the umask. */
function makeFolder(path: string): void {
  const made = mkdirSync(path, { recursive: true, mode: 0o755 });
  if (made === undefined) return;
  for (let one = path; one.length >= made.length; one = dirname(one)) {
    const fd = openSync(one, "r");
    try {
      fchmodSync(fd, 0o755);
    } finally {
      closeSync(fd);
    }
  }
}
