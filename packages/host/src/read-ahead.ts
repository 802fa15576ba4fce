/**
 * Makes the disk read what a waking guest will touch of its template's image before it touches it:
 * the recorded working set, or all data of the image if there is none. Returns while the disk still
 * works.
 *
 * A request costs microseconds for pages that are cached, and more for others; on a busy disk the
 * call blocks. So this yields to other work in between.
 */
import { open } from "node:fs/promises";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { type AddressRange, dataRanges, readAhead, readAheadBytesMax } from "@torpor/native";
import type { WorkingSet } from "@torpor/pager";
import { pageBytes } from "@torpor/storage";

/** LIMIT: time spent on requests before yielding. */
const turnMsMax = 1;

/**
 * Requests read-ahead for the image at `path`.
 * @param signal Stops it between two requests. @throws a system error if the image cannot be opened
 */
export async function readImageAhead(
  path: string,
  workingSet: WorkingSet | undefined,
  signal: AbortSignal,
): Promise<void> {
  await using image = await open(path, "r");
  let turnMonoMs = performance.now();
  for (const { start, end } of rangesOf(image.fd, workingSet)) {
    for (let at = start; at < end; at += readAheadBytesMax) {
      if (performance.now() - turnMonoMs > turnMsMax) {
        await yieldToOthers();
        turnMonoMs = performance.now();
      }
      if (signal.aborted) return;
      readAhead(image.fd, at, Math.min(readAheadBytesMax, end - at));
    }
  }
}

/** Without a working set, leaves holes out: they would fill the page cache with zeros. */
function rangesOf(fd: number, workingSet: WorkingSet | undefined): readonly AddressRange[] {
  return (
    workingSet?.ranges.map(({ firstPage, endPage }) => ({
      start: firstPage * pageBytes,
      end: endPage * pageBytes,
    })) ?? dataRanges(fd)
  );
}
