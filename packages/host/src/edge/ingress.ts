/**
 * Decides who may reach a sandbox from outside, and whose request wakes it, from the sandbox's
 * record. Pure.
 *
 * Ports of a sandbox are open to every client that can reach the edge, unless its owner asked for
 * private traffic: then each port except the agent's, which demands a token of its own, demands the
 * traffic token.
 */
import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { accessTokenHeader, agentPort } from "@torpor/protocol";
import type { SandboxRecord } from "../records/sandbox-records.ts";
import { trafficTokenOf } from "../traffic-token.ts";

/** Request header with the traffic token, as in the E2B wire. */
export const trafficTokenHeader = "e2b-traffic-access-token";

/** The fields of a record that decide it. */
export type IngressRecord = Pick<
  SandboxRecord,
  "id" | "hostKey" | "accessToken" | "network" | "autoResume"
>;

/** Why a request may not pass, whatever the state of the sandbox; undefined when it may. */
export function denialOf(
  record: IngressRecord,
  port: number,
  headers: IncomingHttpHeaders,
): string | undefined {
  const token = trafficTokenOf(record);
  if (port === agentPort || token === null) return undefined;
  if (isSame(headers[trafficTokenHeader], token)) return undefined;
  return `The traffic of this sandbox is private: the header ${trafficTokenHeader} is missing or wrong`;
}

/**
 * Why a request that may pass may not wake the sandbox; undefined when it may. A running agent
 * checks tokens itself; a paused sandbox must not be woken by a client that merely knows its id.
 */
export function wakeDenialOf(
  record: IngressRecord,
  port: number,
  headers: IncomingHttpHeaders,
): string | undefined {
  if (port !== agentPort || record.accessToken === null) return undefined;
  if (isSame(headers[accessTokenHeader], record.accessToken)) return undefined;
  return `The sandbox is paused, and only a request with its ${accessTokenHeader} header wakes it`;
}

/** Whether a request carries the token that this port demands; false if the port demands none. */
export function showsToken(
  record: IngressRecord,
  port: number,
  headers: IncomingHttpHeaders,
): boolean {
  const isAgent = port === agentPort;
  const wanted = isAgent ? record.accessToken : trafficTokenOf(record);
  const name = isAgent ? accessTokenHeader : trafficTokenHeader;
  return wanted !== null && isSame(headers[name], wanted);
}

/** Whether requests wake the sandbox when it is paused. */
export function wakesOnTraffic({ autoResume }: IngressRecord): boolean {
  return autoResume !== null;
}

/** The timeout of a sandbox that a request wakes, in milliseconds; null: it has none. */
export function wokenTimeoutMs({ autoResume }: IngressRecord): number | null {
  return autoResume?.timeoutMs ?? null;
}

/** The host name that the guest sees; undefined: the one that the client used. */
export function maskedHost({ network }: IngressRecord, port: number): string | undefined {
  if (port === agentPort) return undefined;
  return network?.maskRequestHost?.replaceAll("${PORT}", String(port));
}

/** Compares in a time that does not reveal where the first difference is. */
function isSame(given: string | string[] | undefined, wanted: string): boolean {
  if (typeof given !== "string") return false;
  const [one, other] = [given, wanted].map((text) => createHash("sha256").update(text).digest());
  return one !== undefined && other !== undefined && timingSafeEqual(one, other);
}
