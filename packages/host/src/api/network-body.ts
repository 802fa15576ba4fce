/**
 * Parses the network settings of a request. All of them are checked here; the code that builds the
 * network decides whether it can meet them.
 */
import { isIPv4 } from "node:net";
import { parseNetworkPolicy } from "@torpor/network";
import {
  type JsonObject,
  TorporError,
  optional,
  parseBoolean,
  parseInteger,
  parseObject,
  parseString,
} from "@torpor/std";
import type { NetworkRequest } from "../network-request.ts";
import { refuse } from "./fields.ts";

const domainCharsMax = 255;
const everything = "0.0.0.0/0";
const domainPattern = /^(?:\*\.)?(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9-]{2,63}$/i;
const hostPattern = /^[A-Za-z0-9.\-:${}[\]]{1,255}$/;

/**
 * Parses the network of a body that creates a sandbox; undefined if it asks for nothing.
 * @throws argument.invalid, operation.unimplemented
 */
export function parseNewNetwork(body: JsonObject): NetworkRequest | undefined {
  const { allow_internet_access: allowInternet } = body;
  const network = optional(body["network"], parseObject, "network");
  if (network === undefined && (allowInternet ?? null) === null) return undefined;
  refuseUnsupported(network ?? {});
  return {
    ...parseEgress(network ?? {}, "network.", allowInternet),
    allowPublicTraffic:
      optional(network?.["allowPublicTraffic"], parseBoolean, "network.allowPublicTraffic") ?? true,
    maskRequestHost:
      optional(network?.["maskRequestHost"], parseHost, "network.maskRequestHost") ?? null,
  };
}

/**
 * Parses a body that replaces what a sandbox may reach; what clients may do stays as it was.
 * @throws argument.invalid, operation.unimplemented
 */
export function parseNetworkUpdate(
  body: JsonObject,
  before: NetworkRequest | null,
): NetworkRequest {
  refuseUnsupported(body);
  return {
    ...parseEgress(body, "", body["allow_internet_access"]),
    allowPublicTraffic: before?.allowPublicTraffic ?? true,
    maskRequestHost: before?.maskRequestHost ?? null,
  };
}

function parseEgress(
  body: JsonObject,
  prefix: string,
  allowInternet: unknown,
): Pick<NetworkRequest, "allowInternetAccess" | "allowOut" | "denyOut"> {
  const allowInternetAccess =
    optional(allowInternet, parseBoolean, "allow_internet_access") ?? null;
  const allowOut = parseEntries(body["allowOut"], `${prefix}allowOut`);
  const denyOut = parseEntries(body["denyOut"], `${prefix}denyOut`);
  const denied = denyOut.find((entry) => !isBlock(entry));
  if (denied !== undefined) {
    throw new TorporError(
      "argument.invalid",
      `${prefix}denyOut: "${denied}" is no IPv4 address or CIDR block`,
    );
  }
  const deniesAll = allowInternetAccess === false || denyOut.includes(everything);
  if (!deniesAll && !allowOut.every(isBlock)) {
    throw new TorporError(
      "argument.invalid",
      `${prefix}allowOut names a domain, so denyOut must contain ${everything}`,
    );
  }
  const egress = { allowInternetAccess, allowOut, denyOut };
  // Reports violations of its limits and finer rules now, before a VM is started for it.
  parseNetworkPolicy(egress);
  return egress;
}

function parseEntries(value: unknown, what: string): readonly string[] {
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value)) throw new TorporError("argument.invalid", `${what} must be a list`);
  return value.map((entry) => {
    const text = parseString(entry, what, domainCharsMax);
    if (isBlock(text) || domainPattern.test(text)) return text;
    throw new TorporError(
      "argument.invalid",
      `${what}: "${text}" is no IPv4 address, CIDR block or domain`,
    );
  });
}

function isBlock(text: string): boolean {
  const [address = "", bits, ...more] = text.split("/");
  if (more.length > 0 || !isIPv4(address)) return false;
  return bits === undefined || (/^\d{1,2}$/.test(bits) && Number(bits) <= 32);
}

function parseHost(value: unknown, what: string): string {
  const host = parseString(value, what);
  if (hostPattern.test(host)) return host;
  throw new TorporError("argument.invalid", `${what} is no name of a host`);
}

function refuseUnsupported(network: JsonObject): void {
  const { httpsPorts, egressProxy, rules, dnsServers } = network;
  if (parseEntries(dnsServers, "dnsServers").length > 0) {
    refuse("names are looked up by the daemon for its sandboxes: dnsServers is not supported");
  }
  if (Array.isArray(httpsPorts) && httpsPorts.length > 0) {
    for (const port of httpsPorts) parseInteger(port, "httpsPorts", 1, 65_535);
    refuse("guests are reached by plain HTTP only: httpsPorts is not supported");
  }
  if ((egressProxy ?? null) !== null) refuse("egressProxy is not supported");
  if (Object.keys(optional(rules, parseObject, "rules") ?? {}).length > 0) {
    refuse("headers of outgoing requests are not changed here: rules is not supported");
  }
}
