/** Mounts in the caller's mount namespace (mount(2)). */
import { check, libc } from "./libc.ts";

/** Flags of mount(2). */
export const mountFlag = {
  readOnly: 0x1,
  noSetUid: 0x2,
  noDevices: 0x4,
  noExecute: 0x8,
  remount: 0x20,
  bind: 0x1000,
  recursive: 0x4000,
  private: 0x4_0000,
} as const;

/** Calls mount(2); returns -1 on failure. */
export const mount = libc.func(
  "int mount(const char *source, const char *target, const char *type, unsigned long flags, const char *data)",
) as (
  source: string | null,
  target: string,
  type: string | null,
  flags: number,
  data: string | null,
) => number;

/** Calls umount2(2); returns -1 on failure. */
export const umount = libc.func("int umount2(const char *target, int flags)") as (
  target: string,
  flags: number,
) => number;

/**
 * Shows the file `source` in the place of the file `target`, where nobody can write to it any more.
 * For names in /proc, which cannot be written: the file mounted over one can be, through its own
 * name. A repeated call mounts it twice; compare the two files first.
 * @throws system error ENOENT for a missing file, EPERM without CAP_SYS_ADMIN.
 */
export function bindReadOnly(source: string, target: string): void {
  bind(source, target, mountFlag.readOnly | mountFlag.noSetUid | mountFlag.noDevices);
}

/**
 * Mounts `source` over `target`, both files or both folders, with these flags.
 * @throws a system error
 */
export function bind(source: string, target: string, flags: number): void {
  check(mount(source, target, null, mountFlag.bind, null), "mount");
  using undo = new DisposableStack();
  undo.defer(() => umount(target, 0));
  // The kernel applies flags only to what is mounted already.
  const again = mountFlag.bind | mountFlag.remount;
  check(mount(null, target, null, again | flags, null), "mount");
  undo.move();
}
