/**
 * Lays one file over another in the caller's mount namespace.
 *
 * A name that lies in /proc cannot be written; what is laid over it can be, through its own name.
 */
import { check, libc } from "./libc.ts";

const readOnly = 0x1;
const noSetUid = 0x2;
const noDevices = 0x4;
const remountFlag = 0x20;
const bindFlag = 0x1000;

const mount = libc.func(
  "int mount(const char *source, const char *target, const char *type, unsigned long flags, void *data)",
) as (
  source: string | null,
  target: string,
  type: string | null,
  flags: number,
  data: null,
) => number;

const umount = libc.func("int umount2(const char *target, int flags)") as (
  target: string,
  flags: number,
) => number;

/**
 * Shows the file `source` in the place of the file `target`, where nobody can write to it any more.
 * Repeated, it lies twice; compare the two files first.
 * @throws system error ENOENT for a missing file, EPERM without CAP_SYS_ADMIN.
 */
export function bindReadOnly(source: string, target: string): void {
  check(mount(source, target, null, bindFlag, null), "mount");
  using undo = new DisposableStack();
  undo.defer(() => umount(target, 0));
  const flags = bindFlag | remountFlag | readOnly | noSetUid | noDevices;
  check(mount(null, target, null, flags, null), "mount");
  undo.move();
}
