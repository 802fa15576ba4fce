/**
 * `POST /files`: a request body becomes the content of a file.
 *
 * An existing file keeps its inode and has its content replaced in place, so that hard links, open
 * descriptors, mounts over it and its attributes hold and watchers see a write. If the disk has no
 * room for the new content, the old content stays. For a body that is small, or whose length is
 * known, the room is checked first. For a longer body of unknown length this is impossible: if the
 * disk fills up, the file ends where writing stopped.
 */
import type { Stats } from "node:fs";
import { basename, dirname } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import { systemCode } from "@torpor/std";
import type { User } from "./accounts.ts";
import type { FileWork } from "./file-work.ts";
import { type Metadata, replaceMetadata } from "./metadata.ts";
import { OpenFile } from "./open-file.ts";
import { makeOwnedFolder } from "./owned-folder.ts";
import { asConnectError } from "./system-errors.ts";

/** LIMIT: bytes of a body that are buffered before the file is touched. */
const heldBytesMax = 256 << 10;
const statBlockBytes = 512;

/** One written file, as the answer of an upload lists it. */
export interface WrittenFile {
  readonly path: string;
  readonly name: string;
  readonly type: "file";
  readonly metadata?: Metadata;
}

/** One file to write, and who writes it. */
export interface Upload {
  /** Absolute. */
  readonly path: string;
  readonly body: AsyncIterable<Buffer>;
  /** Upper bound of the bytes still to come; undefined if the client did not announce a length. */
  readonly bytesMax: number | undefined;
  readonly user: User;
  readonly metadata: Metadata;
  readonly work: FileWork;
}

/**
 * Writes the body into the file and makes missing folders above it.
 * @throws ConnectError, system error
 */
export async function writeUpload(upload: Upload): Promise<WrittenFile> {
  const { path, body, user, metadata, work } = upload;
  const existing = await existingFile(path, work);
  if (existing === undefined) await parentFolder(path, user, work);
  {
    await using file = await OpenFile.write(path, 0o666, work);
    if (file.stats.size > 0) await replaceContent(file, upload);
    await file.chown(user.uid, user.gid);
    if (file.stats.size === 0) for await (const chunk of body) await file.write(chunk);
    await file.close();
  }
  const hasMetadata = Object.keys(metadata).length > 0;
  if (hasMetadata || existing !== undefined) await replaceMetadata(path, metadata, work);
  return { path, name: basename(path), type: "file", ...(hasMetadata ? { metadata } : {}) };
}

async function replaceContent(file: OpenFile, upload: Upload): Promise<void> {
  const { path, bytesMax, work } = upload;
  const body = upload.body[Symbol.asyncIterator]();
  const held: Buffer[] = [];
  let heldBytes = 0;
  while (heldBytes <= heldBytesMax) {
    const next = await body.next();
    if (next.done === true) {
      await file.replace(Buffer.concat(held));
      return;
    }
    held.push(next.value);
    heldBytes += next.value.length;
  }
  await checkRoom(path, file.stats, Math.max(bytesMax ?? 0, heldBytes), work);
  await file.truncate(0);
  for (const chunk of held) await file.write(chunk);
  for (let next = await body.next(); next.done !== true; next = await body.next()) {
    await file.write(next.value);
  }
}

/**
 * @throws system error ENOSPC when the file system has no room for `bytes` in the place of `old`.
 */
async function checkRoom(path: string, old: Stats, bytes: number, work: FileWork): Promise<void> {
  const oldBytes = old.blocks * statBlockBytes;
  if (bytes <= oldBytes) return;
  const { blocks, bfree, bsize } = await work.statfs(path);
  // Some file systems report no size.
  if (blocks === 0 || bytes <= oldBytes + bfree * bsize) return;
  throw Object.assign(new TypeError("no space left on the disk"), { code: "ENOSPC" });
}

/** Undefined if there is no file yet. @throws ConnectError invalid_argument; system error */
async function existingFile(path: string, work: FileWork): Promise<Stats | undefined> {
  const stats = await work.stat(path).catch((cause: unknown) => {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw cause;
  });
  if (stats === undefined || stats.isFile()) return stats;
  const kind = stats.isDirectory() ? "a directory" : "not a regular file";
  throw new ConnectError(`path is ${kind}: '${path}'`, Code.InvalidArgument);
}

async function parentFolder(path: string, user: User, work: FileWork): Promise<void> {
  try {
    await makeOwnedFolder(dirname(path), user, work);
  } catch (cause) {
    throw asConnectError(cause, path);
  }
}
