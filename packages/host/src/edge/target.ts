/**
 * The target of a request: a port of a sandbox, or the daemon's own API. Pure.
 *
 * A client names a sandbox by the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`, on any host, or
 * by the host itself: `<port>-<id>.<domain>`. The part after a second "-" of the label is ignored,
 * because old clients append an id of theirs.
 *
 * SAFETY: a page that one sandbox serves may send headers of its own to its own host. Headers that
 * name another sandbox than the host does are refused, so that the page cannot read what the other
 * serves.
 */
import type { IncomingHttpHeaders } from "node:http";

const sandboxIdHeader = "e2b-sandbox-id";
const sandboxPortHeader = "e2b-sandbox-port";

/** The target of a request. */
export type Target =
  | { readonly kind: "api" }
  | { readonly kind: "guest"; readonly sandboxId: string; readonly port: number }
  /** It names a sandbox, but incorrectly. */
  | { readonly kind: "misnamed"; readonly message: string };

const portMax = 65_535;
const idPattern = /^[a-z0-9]{1,64}$/i;
/**
 * A label that begins with digits and "-" is meant for a sandbox; none of our other hosts begins
 * so.
 */
const labelPattern = /^(\d+)-([^-]*)/;

/** Finds the target by headers and host. `domain` is in lower case. */
export function targetOf(headers: IncomingHttpHeaders, domain: string): Target {
  const id = headers[sandboxIdHeader];
  const port = headers[sandboxPortHeader];
  const byHost = targetOfHost(hostOf(headers), domain);
  if (id === undefined && port === undefined) return byHost;
  if (typeof id !== "string" || typeof port !== "string") {
    return misnamed(`the headers ${sandboxIdHeader} and ${sandboxPortHeader} go together`);
  }
  const byHeaders = guest(id, port);
  if (byHost.kind !== "guest" || byHeaders.kind !== "guest") return byHeaders;
  if (byHost.sandboxId === byHeaders.sandboxId) return byHeaders;
  return misnamed("the host and the headers name different sandboxes");
}

/**
 * The host that a request names, in HTTP/1 and HTTP/2; includes the port if the client gave one.
 */
export function hostOf(headers: IncomingHttpHeaders): string {
  const authority = headers[":authority"];
  return (typeof authority === "string" ? authority : headers.host) ?? "";
}

function targetOfHost(host: string, domain: string): Target {
  const name = host.replace(/:\d*$/, "").replace(/\.$/, "").toLowerCase();
  if (!name.endsWith(`.${domain}`)) return { kind: "api" };
  const label = labelPattern.exec(name.slice(0, -domain.length - 1));
  if (label === null) return { kind: "api" };
  const [, port = "", id = ""] = label;
  return guest(id, port);
}

function guest(sandboxId: string, portText: string): Target {
  const port = /^\d{1,5}$/.test(portText) ? Number(portText) : 0;
  if (port < 1 || port > portMax) return misnamed("the port must be a number from 1 to 65535");
  if (!idPattern.test(sandboxId)) return misnamed("this is not the id of a sandbox");
  return { kind: "guest", sandboxId, port };
}

function misnamed(message: string): Target {
  return { kind: "misnamed", message };
}
