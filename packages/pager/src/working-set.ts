/**
 * The pages that a guest touches soon after it wakes, as an earlier wake recorded them, in a file:
 *
 *     "TORPWSET", u32 version, u32 count of runs, u64 bytes of the guest's memory,
 *     per run: u32 first page, u32 page count,
 *     SHA-256 of all that
 *
 * Runs ascend and do not overlap. The file is a hint: without it, or with a wrong one, a wake is
 * slower and nothing else. So a damaged file is an error to the caller that reads it, but no reason
 * to fail a wake.
 */
import { createHash } from "node:crypto";
import { readFileSync, renameSync, writeFileSync } from "node:fs";
import { TorporError, assert } from "@torpor/std";
import { pageBytes } from "@torpor/storage";
import type { PageRange } from "./page-source.ts";

const magic = Buffer.from("TORPWSET", "latin1");
const version = 1;
const headerBytes = magic.length + 16;
const runBytes = 8;
const digestBytes = 32;
/** LIMIT: size of a file, which is read whole: 16 MiB of runs, every other page of 16 GiB. */
const fileBytesMax = headerBytes + 16 * 1024 * 1024 + digestBytes;

/** A set of a guest's pages. */
export interface WorkingSet {
  /** Size of the guest's memory. */
  readonly sizeBytes: number;
  readonly ranges: readonly PageRange[];
}

/** The pages for which `touched` holds 1. */
export function workingSetOf(touched: Uint8Array): WorkingSet {
  const ranges: PageRange[] = [];
  for (let page = touched.indexOf(1); page !== -1; page = touched.indexOf(1, page)) {
    const firstPage = page;
    while (touched[page] === 1) page += 1;
    ranges.push({ firstPage, endPage: page });
  }
  return { sizeBytes: touched.length * pageBytes, ranges };
}

/** Number of pages in the set. */
export function countPages({ ranges }: WorkingSet): number {
  return ranges.reduce((sum, { firstPage, endPage }) => sum + endPage - firstPage, 0);
}

/** Encodes a working set as a file's content. */
export function encodeWorkingSet({ sizeBytes, ranges }: WorkingSet): Buffer {
  const body = Buffer.alloc(headerBytes + ranges.length * runBytes);
  assert(body.length + digestBytes <= fileBytesMax, "a working set is small");
  magic.copy(body);
  body.writeUInt32LE(version, 8);
  body.writeUInt32LE(ranges.length, 12);
  body.writeBigUInt64LE(BigInt(sizeBytes), 16);
  for (const [index, { firstPage, endPage }] of ranges.entries()) {
    body.writeUInt32LE(firstPage, headerBytes + index * runBytes);
    body.writeUInt32LE(endPage - firstPage, headerBytes + index * runBytes + 4);
  }
  return Buffer.concat([body, sha256(body)]);
}

/**
 * Decodes a file's content.
 * @param path For messages.
 * @throws snapshot.corrupt, snapshot.incompatible for another version.
 */
export function decodeWorkingSet(file: Buffer, sizeBytes: number, path: string): WorkingSet {
  const wrong = (what: string): TorporError =>
    new TorporError("snapshot.corrupt", `${path} ${what}`);
  if (!file.subarray(0, magic.length).equals(magic)) throw wrong("is of another format");
  if (file.length < headerBytes + digestBytes) throw wrong("ends early");
  const found = file.readUInt32LE(8);
  if (found !== version) {
    throw new TorporError("snapshot.incompatible", `${path} has version ${found}, not ${version}`);
  }
  const body = file.subarray(0, -digestBytes);
  if (!sha256(body).equals(file.subarray(-digestBytes))) {
    throw wrong("does not match its checksum");
  }
  if (body.length !== headerBytes + file.readUInt32LE(12) * runBytes) throw wrong("ends early");
  if (file.readBigUInt64LE(16) !== BigInt(sizeBytes)) throw wrong("is of a guest of another size");
  const ranges: PageRange[] = [];
  for (let at = headerBytes, next = 0; at < body.length; at += runBytes) {
    const firstPage = body.readUInt32LE(at);
    const endPage = firstPage + body.readUInt32LE(at + 4);
    if (firstPage < next || endPage <= firstPage || endPage * pageBytes > sizeBytes) {
      throw wrong("names pages out of order, or that this guest does not have");
    }
    next = endPage;
    ranges.push({ firstPage, endPage });
  }
  return { sizeBytes, ranges };
}

/**
 * Reads a file.
 * @throws snapshot.corrupt, snapshot.incompatible; system error ENOENT if none was recorded.
 */
export function readWorkingSet(path: string, sizeBytes: number): WorkingSet {
  return decodeWorkingSet(readFileSync(path), sizeBytes, path);
}

/** Writes a file, and atomically replaces an older one. @throws system error, such as ENOSPC */
export function writeWorkingSet(path: string, workingSet: WorkingSet): void {
  const staged = `${path}.new`;
  writeFileSync(staged, encodeWorkingSet(workingSet), { mode: 0o600 });
  renameSync(staged, path);
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}
