/**
 * Extended attributes of files, which Node has no API for.
 *
 * Calls are synchronous: one takes microseconds on a local file system. A file system without
 * attributes reads as having none; writing to it throws ENOTSUP. Links are followed.
 */
import { check, libc } from "./libc.ts";
import { systemCode } from "@torpor/std";

/** LIMIT: the kernel's own bounds on one value and on the list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX). */
const bytesMax = 65_536;

const listXattr = libc.func("long listxattr(const char *path, void *list, size_t bytes)") as (
  path: string,
  list: Buffer,
  bytes: number,
) => number;
const getXattr = libc.func(
  "long getxattr(const char *path, const char *name, void *value, size_t bytes)",
) as (path: string, name: string, value: Buffer, bytes: number) => number;
const setXattrRaw = libc.func(
  "int setxattr(const char *path, const char *name, void *value, size_t bytes, int flags)",
) as (path: string, name: string, value: Buffer, bytes: number, flags: number) => number;
const removeXattrRaw = libc.func("int removexattr(const char *path, const char *name)") as (
  path: string,
  name: string,
) => number;

/**
 * Scratch space for names and values.
 * SNAPSHOT: overwritten by each call and read only within it; nothing is carried across a cut.
 */
let scratch: Buffer | undefined;

/** Every attribute whose name starts with `prefix`, by its full name, as UTF-8 text. */
export function readXattrs(path: string, prefix: string): Map<string, string> {
  scratch ??= Buffer.alloc(bytesMax);
  const found = new Map<string, string>();
  for (const name of listNames(path, scratch)) {
    if (!name.startsWith(prefix)) continue;
    const length = getXattr(path, name, scratch, bytesMax);
    if (length >= 0) found.set(name, scratch.toString("utf8", 0, length));
  }
  return found;
}

/** @throws system error: ENOTSUP, ENOSPC, EPERM */
export function writeXattr(path: string, name: string, value: string): void {
  const bytes = Buffer.from(value, "utf8");
  check(setXattrRaw(path, name, bytes, bytes.length, 0), "setxattr");
}

/** Removing one that is not there is a success. */
export function removeXattr(path: string, name: string): void {
  try {
    check(removeXattrRaw(path, name), "removexattr");
  } catch (cause) {
    if (systemCode(cause) !== "ENODATA" && systemCode(cause) !== "ENOTSUP") throw cause;
  }
}

function listNames(path: string, into: Buffer): string[] {
  const length = listXattr(path, into, bytesMax);
  if (length <= 0) return [];
  return into
    .toString("utf8", 0, length)
    .split("\0")
    .filter((name) => name !== "");
}
