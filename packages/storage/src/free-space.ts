/**
 * Checks free disk space before an operation that would fail half-way without it. The check is
 * synchronous, because a wake waits for it and a trip through the thread pool takes many times as
 * long.
 */
import { statfsSync } from "node:fs";
import { TorporError } from "@torpor/std";

/** LIMIT: reserved for manifests, logs and the database, so that a full disk stays manageable. */
const reserveBytes = 64 * 1024 * 1024;

/** Refuses an operation that needs more than is free. @throws storage.noSpace with both numbers. */
export async function assertFreeSpace(folder: string, neededBytes: number): Promise<void> {
  const { bavail, bsize } = statfsSync(folder);
  const freeBytes = bavail * bsize;
  if (freeBytes >= neededBytes + reserveBytes) return;
  const needed = Math.ceil((neededBytes + reserveBytes) / 1024 / 1024);
  throw new TorporError(
    "storage.noSpace",
    `${folder} has ${Math.floor(freeBytes / 1024 / 1024)} MiB free, ${needed} MiB are needed`,
    { effect: "none", details: { freeBytes, neededBytes } },
  );
}
