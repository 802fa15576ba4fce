/**
 * Identifies the sender of a request: the owner, through the Unix socket, or the holder of an API
 * key or an access token.
 *
 * An API key opens everything that sandboxes need. Keys themselves are managed with an access
 * token, so that a leaked key cannot create others. There is one team; a request that names another
 * is refused.
 */
import type { IncomingHttpHeaders } from "node:http";
import { TorporError } from "@torpor/std";
import { hostOf } from "../edge/target.ts";
import { teamId } from "../team.ts";
import type { ApiHost } from "./api-host.ts";
import type { Access } from "./route.ts";

/** The sender of a request. */
export interface Caller {
  /** The id under which its requests are counted; undefined for the owner and on open routes. */
  readonly id: string | undefined;
}

type Identifying = Pick<ApiHost, "apiKeys" | "accessTokens" | "servedDomain">;

/**
 * Finds out who sends a request and whether they may call a route.
 * @throws auth.missing, auth.forbidden, host.unknown
 */
export function identify(
  { apiKeys, accessTokens, servedDomain }: Identifying,
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
    if (key === undefined && headers.authorization === undefined)
      refuseOtherHost(headers, servedDomain());
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

/**
 * Refuses a host that is meant for a sandbox but names none: a name below the domain that is no
 * sandbox's, or a sandbox's name below another domain. A hint at missing keys would mislead such a
 * client. Clients of the API use the host `api.` and the domain.
 * @throws host.unknown
 */
function refuseOtherHost(headers: IncomingHttpHeaders, servedDomain: string): void {
  const name = hostOf(headers).replace(/:\d*$/, "").toLowerCase();
  const domain = servedDomain.replace(/:\d+$/, "").toLowerCase();
  const isBelow = name.endsWith(`.${domain}`) && name !== `api.${domain}`;
  if (!isBelow && !/^\d+-[a-z0-9]+\./.test(name)) return;
  throw new TorporError("host.unknown", `there is no sandbox at the host ${name}`, {
    advice: `Use an address of the form PORT-ID.${servedDomain}.`,
  });
}
