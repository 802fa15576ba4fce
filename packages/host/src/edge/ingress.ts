/**
 * Who may reach a sandbox from outside, and whose request wakes it. Read from its record; pure.
 *
 * Ports of a sandbox are open to whoever can reach the edge, unless its owner asked for private
 * traffic: then each port but the agent's, which asks for a token of its own, wants the traffic token.
 */
import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";
import { accessTokenHeader, agentPort } from "@torpor/protocol";
import type { SandboxRecord } from "../records/sandbox-records.ts";

export const trafficTokenHeader = "e2b-traffic-access-token";

/** The part of a sandbox's network rules that is about requests from outside. */
export interface IngressRules {
  /** True when it is not said. */
  readonly allowPublicTraffic?: boolean | undefined;
  /** The host name that the guest sees; `${PORT}` stands for the port. */
  readonly maskRequestHost?: string | null | undefined;
}

export type IngressRecord = Pick<SandboxRecord, "id" | "hostKey" | "accessToken" | "lifetime"> & {
  readonly network?: IngressRules | null | undefined;
};

/** LIMIT: the least time that a sandbox gets which a request has woken, as clients expect it. */
const wokenMsMin = 300_000;

/**
 * What a client has to send for private traffic. It is the same in every run, and derived, so that no
 * record has to hold it; a fork has a host key of its own and with it another token.
 */
export function trafficTokenOf({ id, hostKey }: Pick<SandboxRecord, "id" | "hostKey">): string {
  return createHmac("sha256", hostKey).update(`traffic of ${id}`).digest("hex");
}

/** Why a request may not pass, whatever the state of the sandbox; undefined when it may. */
export function denialOf(
  record: IngressRecord,
  port: number,
  headers: IncomingHttpHeaders,
): string | undefined {
  if (port === agentPort || record.network?.allowPublicTraffic !== false) return undefined;
  if (isSame(headers[trafficTokenHeader], trafficTokenOf(record))) return undefined;
  return `The traffic of this sandbox is private: the header ${trafficTokenHeader} is missing or wrong`;
}

/**
 * Why a request that may pass may not wake. A running agent judges tokens itself; one that sleeps
 * must not be woken by whoever knows its id.
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

export function wakesOnTraffic({ lifetime }: IngressRecord): boolean {
  return lifetime.autoResume === true;
}

/** The timeout of a sandbox that a request wakes: what was left of it, or a decent minimum. */
export function wokenTimeoutMs({ lifetime }: IngressRecord): number | undefined {
  return lifetime.leftMs === null ? undefined : Math.max(lifetime.leftMs, wokenMsMin);
}

/** Undefined: the guest sees the host name that the client used. */
export function maskedHost({ network }: IngressRecord, port: number): string | undefined {
  if (port === agentPort) return undefined;
  return network?.maskRequestHost?.replaceAll("${PORT}", String(port));
}

/** Takes the same time wherever they differ. */
function isSame(given: string | string[] | undefined, wanted: string): boolean {
  if (typeof given !== "string") return false;
  const [one, other] = [given, wanted].map((text) => createHash("sha256").update(text).digest());
  return one !== undefined && other !== undefined && timingSafeEqual(one, other);
}
