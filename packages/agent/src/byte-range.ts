/** The part of a file a download asks for. */
export type ByteRange =
  | { readonly kind: "whole" }
  /** Both ends are included; the first byte of the file is 0. */
  | { readonly kind: "part"; readonly first: number; readonly last: number }
  | { readonly kind: "unsatisfiable" };

/**
 * Parses a `Range` header. A header that is not a single range in bytes means the whole file, which
 * HTTP lets a server answer at any time.
 */
export function parseRange(header: string | undefined, fileBytes: number): ByteRange {
  const match = /^bytes=(\d*)-(\d*)$/.exec(header?.replaceAll(" ", "") ?? "");
  const [, from, to] = match ?? [];
  if (from === undefined || to === undefined || (from === "" && to === ""))
    return { kind: "whole" };
  const first = from === "" ? Math.max(0, fileBytes - Number(to)) : Number(from);
  const last = from === "" || to === "" ? fileBytes - 1 : Math.min(Number(to), fileBytes - 1);
  if (from !== "" && to !== "" && Number(to) < Number(from)) return { kind: "whole" };
  return first > last ? { kind: "unsatisfiable" } : { kind: "part", first, last };
}
