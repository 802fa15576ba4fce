/** Paths as system calls take them. */

/** Text where it is UTF-8, else bytes. */
export type DiskPath = string | Buffer;

/** With the zero byte that koffi adds to text, but not to bytes. */
export function terminated(path: DiskPath): DiskPath {
  return typeof path === "string" ? path : Buffer.concat([path, Buffer.alloc(1)]);
}
