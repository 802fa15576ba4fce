/** Paths as system calls take them. */

/** A path, as text if it is UTF-8, else as bytes. */
export type DiskPath = string | Buffer;

/** Adds the zero byte that koffi appends to text, but not to bytes. */
export function terminated(path: DiskPath): DiskPath {
  return typeof path === "string" ? path : Buffer.concat([path, Buffer.alloc(1)]);
}
