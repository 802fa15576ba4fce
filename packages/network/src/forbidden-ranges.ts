/**
 * Addresses that no sandbox reaches, whatever is asked for: private networks, the host's own and its
 * neighbours', and where clouds keep what a machine may know of itself. The host's own public addresses
 * are not fixed and are looked up when a connection is made.
 */
import { type AddressRange, contains, parseAddress, range } from "./address-range.ts";

export const forbiddenRanges: readonly AddressRange[] = [
  "0.0.0.0/8", // this host
  "10.0.0.0/8",
  "100.64.0.0/10", // carriers' networks, and some clouds' metadata
  "127.0.0.0/8",
  "168.63.129.16/32", // Azure's metadata
  "169.254.0.0/16", // link-local, and most clouds' metadata
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15", // for measuring networks
  "224.0.0.0/4", // multicast
  "240.0.0.0/4", // reserved, and broadcast
].map(range);

/** Also true of what is no IPv4 address. */
export function isForbidden(text: string): boolean {
  const address = parseAddress(text);
  return address === undefined || forbiddenRanges.some((one) => contains(one, address));
}
