/**
 * The free-form metadata of an uploaded file: headers on the way in, extended attributes on disk.
 *
 * Each upload replaces the whole set, so a file uploaded without any has none afterwards.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { IncomingHttpHeaders } from "node:http";
import { readXattrs, removeXattr, writeXattr } from "@torpor/native";

const headerPrefix = "x-metadata-";
const attributePrefix = "user.e2b.";
/** LIMIT: the kernel's 255 bytes for the name of an attribute, less the prefix. */
const keyBytesMax = 246;
/** LIMIT: keys and values together; a block of a small file system holds no more. */
const totalBytesMax = 4096;

export type Metadata = Readonly<Record<string, string>>;

/** @throws ConnectError invalid_argument */
export function parseMetadata(headers: IncomingHttpHeaders): Metadata {
  const metadata: Record<string, string> = {};
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
    metadata[key] = value;
  }
  if (totalBytes > totalBytesMax) {
    throw new ConnectError(
      `metadata must have at most ${totalBytesMax} bytes`,
      Code.InvalidArgument,
    );
  }
  return metadata;
}

export function readMetadata(path: string): Metadata {
  const attributes = readXattrs(path, attributePrefix);
  return Object.fromEntries(
    Array.from(attributes, ([name, value]) => [name.slice(attributePrefix.length), value]),
  );
}

/** @throws system error: ENOTSUP where the file system keeps no attributes and there are some. */
export function replaceMetadata(path: string, metadata: Metadata): void {
  for (const name of readXattrs(path, attributePrefix).keys()) {
    if (!(name.slice(attributePrefix.length) in metadata)) removeXattr(path, name);
  }
  for (const [key, value] of Object.entries(metadata)) {
    writeXattr(path, `${attributePrefix}${key}`, value);
  }
}
