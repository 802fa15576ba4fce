/**
 * Releases of Firecracker: which are too old to be trusted with a guest, and what newer ones can
 * do.
 */
import { TorporError } from "@torpor/std";

/** A release such as 1.16.1. */
export type ReleaseNumber = readonly [major: number, minor: number, patch: number];

/**
 * The oldest release that is run, and the faults of those before it, which are reported to a user
 * who has one.
 *
 * 1.15.0 stopped corrupting diffs of guests above 3 GiB (firecracker#5705), 1.16.0 let guests
 * before Linux 6.10 see that they were restored (#5760) and kept their clock from leaping (#5809),
 * and 1.16.1 stopped losing what was in flight on a restored vsock (#5958).
 */
const oldest: ReleaseNumber = [1, 16, 1];
const faults: readonly { readonly before: ReleaseNumber; readonly fault: string }[] = [
  { before: [1, 15, 0], fault: "it corrupts diff snapshots of guests with more than 3 GiB" },
  { before: [1, 16, 0], fault: "guests are not told that they were restored, and clocks leap" },
  { before: oldest, fault: "restored guests lose what was in flight on their sockets" },
];

/** The first release that accepts a field of a request; older ones refuse the whole request. */
export const since = {
  /** A field of `PUT /snapshot/load`. */
  hugePagesAtLoad: [1, 17, 0],
} as const satisfies Record<string, ReleaseNumber>;

/**
 * Parses "Firecracker v1.16.1" and other texts in which a program names its release.
 * @throws vmm.missing
 */
export function parseRelease(text: string): ReleaseNumber {
  const [, major, minor, patch] = /v?(\d+)\.(\d+)\.(\d+)/.exec(text) ?? [];
  if (patch !== undefined) return [Number(major), Number(minor), Number(patch)];
  throw new TorporError("vmm.missing", `no release of Firecracker: "${text.slice(0, 80).trim()}"`);
}

/** Formats a release as "1.16.1". */
export function formatRelease(release: ReleaseNumber): string {
  return release.join(".");
}

/** Whether `release` is older than `other`. */
export function isBefore(release: ReleaseNumber, other: ReleaseNumber): boolean {
  const differing = release.findIndex((number, index) => number !== other[index]);
  return differing >= 0 && (release[differing] ?? 0) < (other[differing] ?? 0);
}

/** Refuses releases with known faults. @throws vmm.missing with the reason. */
export function assertSupported(release: ReleaseNumber): void {
  const found = faults.find(({ before }) => isBefore(release, before));
  if (found === undefined) return;
  throw new TorporError(
    "vmm.missing",
    `Firecracker ${formatRelease(release)} is not run: ${found.fault}`,
    { advice: `Install Firecracker ${formatRelease(oldest)} or newer, with its jailer.` },
  );
}
