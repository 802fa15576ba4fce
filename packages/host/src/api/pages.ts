/** Pages of a list in the order of creation. A page ends with a token that names its last entry. */
import { TorporError, parseIntegerText } from "@torpor/std";
import { queryText } from "./fields.ts";
import { pageLimitOf } from "./list-query.ts";
import type { ApiRequest } from "./route.ts";

/** An entry of such a list. */
export interface Listed {
  readonly createdAtMs: number;
  readonly id: string;
}

/** One page of a list. */
export interface CutPage<T> {
  readonly entries: readonly T[];
  /** The header with the token of the next page; empty on the last page. */
  readonly headers: Readonly<Record<string, string>>;
}

/**
 * Cuts the page out of the list that a request asks for.
 * @param all Oldest first.
 * @throws argument.invalid
 */
export function cutPage<T extends Listed>(all: readonly T[], request: ApiRequest): CutPage<T> {
  const token = queryText(request, "nextToken") ?? "";
  const first = token === "" ? 0 : positionAfter(all, token);
  const entries = all.slice(first, first + pageLimitOf(request));
  const last = entries.at(-1);
  const more = last !== undefined && last !== all.at(-1);
  return { entries, headers: more ? { "x-next-token": encodeToken(last) } : {} };
}

/** If the entry was removed, its time of creation still gives the position. */
function positionAfter(all: readonly Listed[], token: string): number {
  const [ms, id] = Buffer.from(token, "base64url").toString().split("__");
  if (id === undefined) {
    throw new TorporError("argument.invalid", "nextToken is not one of this list");
  }
  const createdAtMs = parseIntegerText(ms, "nextToken", 0, Number.MAX_SAFE_INTEGER);
  const same = all.findIndex((one) => one.id === id);
  if (same >= 0) return same + 1;
  const later = all.findIndex((one) => one.createdAtMs > createdAtMs);
  return later < 0 ? all.length : later;
}

function encodeToken({ createdAtMs, id }: Listed): string {
  return Buffer.from(`${createdAtMs}__${id}`).toString("base64url");
}
