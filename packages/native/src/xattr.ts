/**
 * Extended attributes of files, which Node has no API for.
 *
 * Calls run in Node's thread pool, because a network mount may answer late or never. A file system without
 * attributes reads as having none; writing to it throws ENOTSUP.
 */
import { constants } from "node:os";
import { type DiskPath, terminated } from "./disk-path.ts";
import { lastErrno, libc, systemError } from "./libc.ts";

/** LIMIT: the kernel's own bounds on one value and on the list of names (XATTR_SIZE_MAX, XATTR_LIST_MAX). */
const bytesMax = 65_536;
const { ENODATA, ENOTSUP } = constants.errno;

export interface Xattr {
  readonly name: Buffer;
  readonly value: Buffer;
}

/** Of a symbolic link: those of what it leads to, or its own. */
export interface XattrOptions {
  readonly follow: boolean;
  /** Only those whose name starts so. */
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

/** Whether a file has any; links are followed. Looks at once, so not on a mount that may hang. */
export function hasXattrs(path: DiskPath): boolean {
  return calls.true.list(terminated(path), null, 0) > 0;
}

/** Every attribute, in the order of the kernel. */
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

/** @throws system error: ENOTSUP, ENOSPC, EPERM */
export async function writeXattr(path: DiskPath, attribute: Xattr, follow: boolean): Promise<void> {
  const { set } = calls[`${follow}`];
  const { name, value } = attribute;
  const errno = await failure((done) =>
    set.async(terminated(path), terminated(name), value, value.length, 0, done),
  );
  if (errno !== 0) throw systemError(errno, "setxattr");
}

/** Removing one that is not there is a success. Links are followed. @throws system error */
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

/** What the call returned; -1 for a failure, whatever it was. */
async function result(begin: (done: Done) => void): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  begin((error, value) => (error === null ? resolve(value) : reject(error)));
  return await promise;
}

/** The number of its error, or 0. */
async function failure(begin: (done: Done) => void): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  // The number is that of the call only within its callback.
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
