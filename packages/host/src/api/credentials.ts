/**
 * Who sends a request: the owner, through the Unix socket, or whoever has an API key or an access token.
 *
 * An API key opens everything that sandboxes need. Keys themselves are looked after with an access
 * token, so that a key that leaked cannot make others. There is one team; a request that names another
 * is refused.
 */
import type { IncomingHttpHeaders } from "node:http";
import { TorporError } from "@torpor/std";
import { teamId } from "../team.ts";
import type { ApiHost } from "./api-host.ts";
import type { Access } from "./route.ts";

export interface Caller {
  /** Requests are counted by it; undefined for the owner and for nobody in particular. */
  readonly id: string | undefined;
}

/** @throws auth.missing, auth.forbidden */
export function identify(
  { apiKeys, accessTokens }: Pick<ApiHost, "apiKeys" | "accessTokens">,
  access: Access,
  headers: IncomingHttpHeaders,
): Caller {
  if (access === "open") return { id: undefined };
  const key = headers["x-api-key"];
  const bearer = /^Bearer (\S+)$/i.exec(headers.authorization ?? "")?.[1];
  const token = bearer === undefined ? undefined : accessTokens.find(bearer);
  const apiKey = typeof key === "string" ? apiKeys.find(key) : undefined;
  const found = token ?? apiKey;
  if (found === undefined) {
    throw new TorporError("auth.missing", "the API key or access token is missing or unknown");
  }
  if (access === "token" && token === undefined) {
    throw new TorporError("auth.missing", "an API key is not enough here", {
      advice: "Send an access token: Authorization: Bearer sk_e2b_…",
    });
  }
  const team = headers["x-team-id"];
  if (team !== undefined && team !== teamId) {
    throw new TorporError("auth.forbidden", "these credentials are not of that team");
  }
  return { id: found.id };
}
