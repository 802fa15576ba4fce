/** IPv4 addresses and ranges, as numbers. */
import { TorporError } from "@torpor/std";

/** A CIDR range of IPv4 addresses; a single address has `prefixBits` 32. */
export interface AddressRange {
  /** The first address of the range, as an unsigned 32-bit number. */
  readonly address: number;
  readonly prefixBits: number;
}

/** The range 0.0.0.0/0. */
export const everyAddress: AddressRange = { address: 0, prefixBits: 0 };

/**
 * Parses a dotted IPv4 address into an unsigned 32-bit number. Returns undefined for anything but
 * four decimal numbers; a leading zero is refused, because some parsers read it as octal.
 */
export function parseAddress(text: string): number | undefined {
  const parts = text.split(".");
  if (parts.length !== 4 || !parts.every((part) => /^(?:0|[1-9]\d{0,2})$/.test(part))) {
    return undefined;
  }
  const bytes = parts.map(Number);
  if (bytes.some((byte) => byte > 255)) return undefined;
  return bytes.reduce((sum, byte) => sum * 256 + byte, 0);
}

/**
 * Parses "192.0.2.1" or "192.0.2.0/24". Returns undefined for anything else. Bits below the prefix
 * are cleared.
 */
export function parseRange(text: string): AddressRange | undefined {
  const [first = "", bits, ...more] = text.split("/");
  const address = parseAddress(first);
  if (address === undefined || more.length > 0) return undefined;
  if (bits === undefined) return { address, prefixBits: 32 };
  if (!/^\d{1,2}$/.test(bits) || Number(bits) > 32) return undefined;
  const prefixBits = Number(bits);
  return { address: (address & mask(prefixBits)) >>> 0, prefixBits };
}

/** Parses a range that is written in the source. @throws argument.invalid */
export function range(text: string): AddressRange {
  const parsed = parseRange(text);
  if (parsed === undefined) throw new TorporError("argument.invalid", `${text} is no range`);
  return parsed;
}

/** Whether `address` lies in the range. */
export function contains({ address: first, prefixBits }: AddressRange, address: number): boolean {
  return ((address ^ first) & mask(prefixBits)) === 0;
}

/** Whether all of `inner` lies in `outer`. */
export function includes(outer: AddressRange, inner: AddressRange): boolean {
  return outer.prefixBits <= inner.prefixBits && contains(outer, inner.address);
}

/** Splits a range into its lower and upper half; empty for a single address. */
export function halves({ address, prefixBits }: AddressRange): readonly AddressRange[] {
  if (prefixBits === 32) return [];
  const upper = address + 2 ** (31 - prefixBits);
  return [address, upper].map((first) => ({ address: first, prefixBits: prefixBits + 1 }));
}

/** Formats a range so that `parseRange` reads it back. */
export function formatRange({ address, prefixBits }: AddressRange): string {
  const bytes = [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff);
  return prefixBits === 32 ? bytes.join(".") : `${bytes.join(".")}/${prefixBits}`;
}

/**
 * The netmask as a signed number. JavaScript shifts by 32 as if by 0, so /0 is a case of its own.
 */
function mask(prefixBits: number): number {
  return prefixBits === 0 ? 0 : -1 << (32 - prefixBits);
}
