/** The part of a file a download asks for. */
export type ByteRange =
  | { readonly kind: "whole" }
  /** Both ends belong to it. */
  | { readonly kind: "part"; readonly first: number; readonly last: number }
  | { readonly kind: "unsatisfiable" };

/** Anything but one range in bytes means the whole, as a server may always answer. */
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
