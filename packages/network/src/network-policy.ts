/**
 * Which internet addresses a sandbox may reach, and the decision on each connection that follows
 * from it.
 *
 * The rules are E2B's: allowing beats denying, an address that neither list names is allowed, and
 * names can be allowed only where all addresses are denied. Forbidden ranges come before
 * everything.
 *
 * Names are known for two protocols only: TLS announces a name on port 443, HTTP on port 80. If the
 * policy allows any name, a connection to such a port that no address rule allows is therefore
 * inspected (`inspect`).
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

/** LIMIT: entries in each of the two lists of a policy. */
export const policyEntriesMax = 512;
/** LIMIT: characters of a name, as in DNS. */
const nameCharsMax = 253;

/** A policy as a client requests it. */
export interface EgressRequest {
  /** False denies all addresses. */
  readonly allowInternetAccess?: boolean | null | undefined;
  /** Addresses, ranges, names, and "*.name" for all names below one. */
  readonly allowOut?: readonly string[] | undefined;
  /** Addresses and ranges. */
  readonly denyOut?: readonly string[] | undefined;
}

/** A parsed policy. */
export interface NetworkPolicy {
  readonly allow: readonly AddressRange[];
  /** In lower case. */
  readonly allowNames: readonly string[];
  readonly deny: readonly AddressRange[];
}

/** `inspect`: allowed if the connection announces an allowed name. */
export type EgressDecision = "allow" | "inspect" | "deny";

/** One row of the rules: the first rule that matches decides, and the last matches everything. */
export interface EgressRule extends AddressRange {
  /** Any port when undefined. */
  readonly port?: number;
  readonly egress: EgressDecision;
}

/** Allows everything but the forbidden ranges. */
export const openPolicy: NetworkPolicy = { allow: [], allowNames: [], deny: [] };
/** Allows nothing. */
export const closedPolicy: NetworkPolicy = { allow: [], allowNames: [], deny: [everyAddress] };

/** Ports on which connections announce a name. */
export const namePorts = { tls: 443, http: 80 } as const;

/** Parses and checks a request. @throws argument.invalid naming the entry */
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
 * Checks a new policy. A policy that was accepted earlier stays in force however the host's
 * networks change.
 * @param near The host's own networks.
 * @throws argument.invalid naming an entry that allows addresses no sandbox reaches
 */
export function assertGrantable({ allow }: NetworkPolicy, near: readonly AddressRange[]): void {
  const refused = allow.find((one) => isAllForbidden(one, near));
  if (refused === undefined) return;
  throw invalid(
    `allowOut has ${formatRange(refused)}, but no sandbox reaches private networks, the host or its neighbours`,
  );
}

/** Whether the policy allows nothing at all. */
export function isClosed(policy: NetworkPolicy): boolean {
  return deniesAll(policy) && policy.allow.length === 0 && policy.allowNames.length === 0;
}

/** The policy as an ordered list of rules. */
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

/** Decides on a connection by its address and port; "deny" for text that is not an IPv4 address. */
export function decideEgress(policy: NetworkPolicy, address: string, port: number): EgressDecision {
  const number = parseAddress(address);
  if (number === undefined) return "deny";
  const fits = (rule: EgressRule): boolean =>
    (rule.port ?? port) === port && contains(rule, number);
  return egressRules(policy).find(fits)?.egress ?? "deny";
}

/**
 * Whether a sandbox may resolve this name. Where all addresses are denied, only allowed names are
 * answered, because a question by itself carries data out.
 */
export function mayResolve(policy: NetworkPolicy, name: string): boolean {
  return !deniesAll(policy) || allowsName(policy, name);
}

/** Whether the policy allows this name, itself or by a "*.name" entry; case is ignored. */
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
  // An entry that looks like an address is a mistyped address.
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
