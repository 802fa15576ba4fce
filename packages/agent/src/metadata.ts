/**
 * The free-form metadata of an uploaded file: request headers in an upload, extended attributes on
 * disk.
 *
 * Each upload replaces the whole set, so a file uploaded without metadata has none afterwards.
 */
import type { Stats } from "node:fs";
import { Code, ConnectError } from "@connectrpc/connect";
import type { IncomingHttpHeaders } from "node:http";
import { type Xattr, hasXattrs, readXattrs, removeXattr, writeXattr } from "@torpor/native";
import type { FileWork } from "./file-work.ts";
import { toDiskPath } from "./path-name.ts";
import { isOnDisk } from "./root-disk.ts";

const headerPrefix = "x-metadata-";
const attributePrefix = "user.e2b.";
/** LIMIT: the kernel's 255 bytes for the name of an attribute, less the prefix. */
const keyBytesMax = 246;
/** LIMIT: keys and values together; an attribute block of a small file system holds no more. */
const totalBytesMax = 4096;

/** Values by key, without the prefix of header or attribute. */
export type Metadata = Readonly<Record<string, string>>;

/** Takes the metadata out of the headers of an upload. @throws ConnectError invalid_argument */
export function parseMetadata(headers: IncomingHttpHeaders): Metadata {
  const metadata = new Map<string, string>();
  let totalBytes = 0;
  for (const [header, given] of Object.entries(headers)) {
    if (!header.startsWith(headerPrefix) || given === undefined) continue;
    const key = header.slice(headerPrefix.length);
    const value = Array.isArray(given) ? given.join(", ") : given;
    if (key === "" || Buffer.byteLength(key) > keyBytesMax) {
      throw new ConnectError(
        `metadata key must have 1 to ${keyBytesMax} bytes`,
        Code.InvalidArgument,
      );
    }
    if (!/^[\x20-\x7e]*$/.test(value)) {
      throw new ConnectError(`metadata '${key}' must be printable ASCII`, Code.InvalidArgument);
    }
    totalBytes += key.length + value.length;
    metadata.set(key, value);
  }
  if (totalBytes > totalBytesMax) {
    throw new ConnectError(
      `metadata must have at most ${totalBytesMax} bytes`,
      Code.InvalidArgument,
    );
  }
  return Object.fromEntries(metadata);
}

/** Reads the metadata of a file on disk. `stats` are those of the file. */
export async function readMetadata(path: string, stats: Stats, work: FileWork): Promise<Metadata> {
  // Nearly all files have no metadata, and on the agent's own disk that check is immediate.
  if (isOnDisk(stats) && !hasXattrs(toDiskPath(path))) return {};
  const attributes = await readAll(path, work);
  return Object.fromEntries(
    attributes.map(({ name, value }) => [keyOf(name), value.toString("utf8")]),
  );
}

/**
 * Replaces the whole metadata of a file.
 * @throws system error: ENOTSUP where the file system keeps no attributes and there are some.
 */
export async function replaceMetadata(
  path: string,
  metadata: Metadata,
  work: FileWork,
): Promise<void> {
  const disk = toDiskPath(path);
  for (const { name } of await readAll(path, work)) {
    if (!Object.hasOwn(metadata, keyOf(name))) await work.run(() => removeXattr(disk, name));
  }
  for (const [key, value] of Object.entries(metadata)) {
    const attribute = { name: Buffer.from(`${attributePrefix}${key}`), value: Buffer.from(value) };
    await work.run(() => writeXattr(disk, attribute, true));
  }
}

async function readAll(path: string, work: FileWork): Promise<readonly Xattr[]> {
  const options = { follow: true, prefix: attributePrefix };
  return await work.run(() => readXattrs(toDiskPath(path), options));
}

function keyOf(name: Buffer): string {
  return name.toString("utf8").slice(attributePrefix.length);
}
