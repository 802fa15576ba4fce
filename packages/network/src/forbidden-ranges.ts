/**
 * Addresses that no sandbox reaches, whatever its policy: private networks, the host and its
 * neighbours, and the metadata services of clouds. The host's own networks may have public
 * addresses and change while it runs, so they are looked up each time (`Outside.nearRanges`).
 */
import {
  type AddressRange,
  contains,
  halves,
  includes,
  parseAddress,
  range,
} from "./address-range.ts";

/** The ranges that are forbidden on every host. */
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

/**
 * Whether no sandbox may reach this address; also true for text that is not an IPv4 address.
 * @param near The host's own networks at this moment.
 */
export function isForbidden(text: string, near: readonly AddressRange[]): boolean {
  const address = parseAddress(text);
  if (address === undefined) return true;
  return [forbiddenRanges, near].some((ranges) => ranges.some((one) => contains(one, address)));
}

/** Whether no address of the range can be reached. */
export function isAllForbidden(wanted: AddressRange, near: readonly AddressRange[]): boolean {
  return isCovered(wanted, [...forbiddenRanges, ...near]);
}

function isCovered(wanted: AddressRange, ranges: readonly AddressRange[]): boolean {
  if (ranges.some((one) => includes(one, wanted))) return true;
  const within = ranges.filter((one) => includes(wanted, one));
  return within.length > 0 && halves(wanted).every((half) => isCovered(half, within));
}
