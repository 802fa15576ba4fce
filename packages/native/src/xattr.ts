/**
 * Extended attributes of files, for which Node has no API.
 *
 * Calls run in Node's thread pool, because a network mount may answer late or never. A file system
 * without attributes reads as having none; writing to it throws ENOTSUP.
 */
import { constants } from "node:os";
import { type DiskPath, terminated } from "./disk-path.ts";
import { lastErrno, libc, systemError } from "./libc.ts";

/**
 * LIMIT: the kernel's own bounds on one value and on the list of names (XATTR_SIZE_MAX,
 * XATTR_LIST_MAX).
 */
const bytesMax = 65_536;
const { ENODATA, ENOTSUP } = constants.errno;

/** One attribute; names and values are bytes. */
export interface Xattr {
  readonly name: Buffer;
  readonly value: Buffer;
}

/** Selects the attributes to read. */
export interface XattrOptions {
  /** For a symbolic link: whether to read those of its target, or its own. */
  readonly follow: boolean;
  /** Only attributes whose name starts with this. */
  readonly prefix?: string;
}

type Done = (error: Error | null, result: number) => void;
interface Call<Arguments extends readonly unknown[]> {
  (...args: Arguments): number;
  async(...args: [...Arguments, Done]): void;
}
type ListCall = Call<[DiskPath, Buffer | null, number]>;
type GetCall = Call<[DiskPath, DiskPath, Buffer, number]>;
type SetCall = Call<[DiskPath, DiskPath, Buffer, number, number]>;
type RemoveCall = Call<[DiskPath, DiskPath]>;

const calls = { true: declare(""), false: declare("l") };

/**
 * Whether a file has any; links are followed. Blocks this thread, so do not call it on a mount that
 * may hang.
 */
export function hasXattrs(path: DiskPath): boolean {
  return calls.true.list(terminated(path), null, 0) > 0;
}

/** Reads the attributes, in the kernel's order; those that cannot be read are left out. */
export async function readXattrs(path: DiskPath, options: XattrOptions): Promise<readonly Xattr[]> {
  const { list, get } = calls[`${options.follow}`];
  const disk = terminated(path);
  // Most files have none: asking for the size alone takes no memory.
  if ((await result((done) => list.async(disk, null, 0, done))) <= 0) return [];
  const room = Buffer.allocUnsafe(bytesMax);
  const length = await result((done) => list.async(disk, room, bytesMax, done));
  const names = splitNames(room.subarray(0, Math.max(0, length)));
  const found: Xattr[] = [];
  for (const name of names) {
    if (!name.toString("latin1").startsWith(options.prefix ?? "")) continue;
    const bytes = await result((done) => get.async(disk, terminated(name), room, bytesMax, done));
    if (bytes >= 0) found.push({ name, value: Buffer.from(room.subarray(0, bytes)) });
  }
  return found;
}

/** Writes one attribute. @throws system error: ENOTSUP, ENOSPC, EPERM */
export async function writeXattr(path: DiskPath, attribute: Xattr, follow: boolean): Promise<void> {
  const { set } = calls[`${follow}`];
  const { name, value } = attribute;
  const errno = await failure((done) =>
    set.async(terminated(path), terminated(name), value, value.length, 0, done),
  );
  if (errno !== 0) throw systemError(errno, "setxattr");
}

/** Removes an attribute. Succeeds if it is not there. Links are followed. @throws system error */
export async function removeXattr(path: DiskPath, name: Buffer): Promise<void> {
  const { remove } = calls.true;
  const errno = await failure((done) => remove.async(terminated(path), terminated(name), done));
  if (errno !== 0 && errno !== ENODATA && errno !== ENOTSUP) {
    throw systemError(errno, "removexattr");
  }
}

function declare(links: "" | "l"): {
  list: ListCall;
  get: GetCall;
  set: SetCall;
  remove: RemoveCall;
} {
  const declared = (text: string): unknown => libc.func(text);
  return {
    list: declared(
      `long ${links}listxattr(const char *path, void *list, size_t bytes)`,
    ) as ListCall,
    get: declared(
      `long ${links}getxattr(const char *path, const char *name, void *value, size_t bytes)`,
    ) as GetCall,
    set: declared(
      `int ${links}setxattr(const char *path, const char *name, void *value, size_t bytes, int flags)`,
    ) as SetCall,
    remove: declared(`int ${links}removexattr(const char *path, const char *name)`) as RemoveCall,
  };
}

/** The call's result; -1 for any failure. */
async function result(begin: (done: Done) => void): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  begin((error, value) => (error === null ? resolve(value) : reject(error)));
  return await promise;
}

/** The errno of the call, or 0. */
async function failure(begin: (done: Done) => void): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  // Errno is that of this call only within its callback.
  begin((error, value) => {
    if (error === null) resolve(value === -1 ? lastErrno() : 0);
    else reject(error);
  });
  return await promise;
}

function splitNames(list: Buffer): Buffer[] {
  const names: Buffer[] = [];
  for (let at = 0; at < list.length;) {
    const end = list.indexOf(0, at);
    if (end === -1) break;
    if (end > at) names.push(Buffer.from(list.subarray(at, end)));
    at = end + 1;
  }
  return names;
}
