/**
 * What a sandbox may reach on the internet, and the one decision that follows from it.
 *
 * The rules are E2B's: allowing beats denying, what neither names is allowed, and names can be allowed
 * only where all addresses are denied. Forbidden ranges come before everything.
 *
 * Names are known of two protocols only: TLS says a name on port 443, HTTP on port 80. A connection to
 * such a port that no address allows is therefore looked into (`inspect`) where any name is allowed.
 */
import { TorporError } from "@torpor/std";
import {
  type AddressRange,
  contains,
  everyAddress,
  formatRange,
  parseAddress,
  parseRange,
} from "./address-range.ts";
import { forbiddenRanges, isAllForbidden } from "./forbidden-ranges.ts";

/** LIMITS: of each list, and of a name as DNS has it. */
export const policyEntriesMax = 512;
const nameCharsMax = 253;

/** As it is asked for. */
export interface EgressRequest {
  /** False denies all addresses. */
  readonly allowInternetAccess?: boolean | null | undefined;
  /** Addresses, ranges, names, and "*.name" for all names below one. */
  readonly allowOut?: readonly string[] | undefined;
  /** Addresses and ranges. */
  readonly denyOut?: readonly string[] | undefined;
}

export interface NetworkPolicy {
  readonly allow: readonly AddressRange[];
  /** In small letters. */
  readonly allowNames: readonly string[];
  readonly deny: readonly AddressRange[];
}

/** `inspect`: allowed if the connection says an allowed name. */
export type EgressDecision = "allow" | "inspect" | "deny";

/** The first rule that fits decides; the last fits everything. */
export interface EgressRule extends AddressRange {
  /** Any port when undefined. */
  readonly port?: number;
  readonly egress: EgressDecision;
}

export const openPolicy: NetworkPolicy = { allow: [], allowNames: [], deny: [] };
export const closedPolicy: NetworkPolicy = { allow: [], allowNames: [], deny: [everyAddress] };

/** Where a connection says for whom it is. */
export const namePorts = { tls: 443, http: 80 } as const;

/** @throws argument.invalid naming the entry */
export function parseNetworkPolicy(request: EgressRequest): NetworkPolicy {
  const { allowInternetAccess, allowOut = [], denyOut = [] } = request;
  assertFew(allowOut, "allowOut");
  assertFew(denyOut, "denyOut");
  const allow: AddressRange[] = [];
  const allowNames: string[] = [];
  for (const entry of allowOut) {
    const found = parseRange(entry);
    if (found === undefined) allowNames.push(parseName(entry));
    else allow.push(found);
  }
  const deny = denyOut.map((entry) => {
    const found = parseRange(entry);
    if (found !== undefined) return found;
    throw invalid(`denyOut takes addresses and ranges only, not ${JSON.stringify(entry)}`);
  });
  if (allowInternetAccess === false) deny.push(everyAddress);
  const policy: NetworkPolicy = { allow, allowNames, deny };
  if (allowNames.length > 0 && !deniesAll(policy)) {
    throw invalid("allowOut takes names only where denyOut has 0.0.0.0/0");
  }
  return policy;
}

/**
 * Of a policy that is new; one that was agreed to is kept whatever became of the host's networks.
 * @param near The host's own networks.
 * @throws argument.invalid naming an entry that allows what no sandbox reaches
 */
export function assertGrantable({ allow }: NetworkPolicy, near: readonly AddressRange[]): void {
  const refused = allow.find((one) => isAllForbidden(one, near));
  if (refused === undefined) return;
  throw invalid(
    `allowOut has ${formatRange(refused)}, but no sandbox reaches private networks, the host or its neighbours`,
  );
}

/** Whether anything at all can be reached. */
export function isClosed(policy: NetworkPolicy): boolean {
  return deniesAll(policy) && policy.allow.length === 0 && policy.allowNames.length === 0;
}

export function egressRules({ allow, allowNames, deny }: NetworkPolicy): readonly EgressRule[] {
  const ports = allowNames.length > 0 ? Object.values(namePorts) : [];
  return [
    ...forbiddenRanges.map((one) => ({ ...one, egress: "deny" as const })),
    ...allow.map((one) => ({ ...one, egress: "allow" as const })),
    ...ports.map((port) => ({ ...everyAddress, port, egress: "inspect" as const })),
    ...deny.map((one) => ({ ...one, egress: "deny" as const })),
    { ...everyAddress, egress: "allow" },
  ];
}

export function decideEgress(policy: NetworkPolicy, address: string, port: number): EgressDecision {
  const number = parseAddress(address);
  if (number === undefined) return "deny";
  const fits = (rule: EgressRule): boolean =>
    (rule.port ?? port) === port && contains(rule, number);
  return egressRules(policy).find(fits)?.egress ?? "deny";
}

/**
 * Whether a sandbox may ask for the addresses of this name. Where all is denied only allowed names are
 * answered, because a question by itself carries data out.
 */
export function mayResolve(policy: NetworkPolicy, name: string): boolean {
  return !deniesAll(policy) || allowsName(policy, name);
}

export function allowsName({ allowNames }: NetworkPolicy, name: string): boolean {
  const small = name.toLowerCase();
  return allowNames.some((one) =>
    one.startsWith("*.") ? small.endsWith(one.slice(1)) : small === one,
  );
}

function deniesAll({ deny }: NetworkPolicy): boolean {
  return deny.some(({ prefixBits }) => prefixBits === 0);
}

function parseName(entry: string): string {
  const small = entry.toLowerCase();
  const label = "[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?";
  const pattern = new RegExp(`^(?:\\*\\.)?(?:${label}\\.)*${label}$`);
  // One that looks like an address is a mistake in an address.
  if (small.length <= nameCharsMax && pattern.test(small) && !/[\d/]$/.test(small)) return small;
  throw invalid(`${JSON.stringify(entry)} in allowOut is no address, range or name`);
}

function assertFew(entries: readonly string[], what: string): void {
  if (entries.length > policyEntriesMax) {
    throw invalid(`${what} takes at most ${policyEntriesMax} entries`);
  }
}

function invalid(message: string): TorporError {
  return new TorporError("argument.invalid", message);
}
