/**
 * Has the disk bring what a waking guest will touch of its template's image, before it does: what a record
 * says, or all that the image holds where there is none. Comes back while the disk still works.
 *
 * Asking costs some microseconds for what is there already, and more for what is not; where the disk has
 * much to do it is waited for. So others get their turn in between.
 */
import { open } from "node:fs/promises";
import { setImmediate as yieldToOthers } from "node:timers/promises";
import { type AddressRange, dataRanges, readAhead, readAheadBytesMax } from "@torpor/native";
import type { WorkingSet } from "@torpor/pager";
import { pageBytes } from "@torpor/storage";

/** LIMIT: of what is asked for in one turn. */
const turnMsMax = 1;

/** @param signal Ends it between two pieces. @throws system error when the image cannot be opened */
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

/** Holes are left out of what nobody is known to need: they would be filled with zeros in the page cache. */
function rangesOf(fd: number, workingSet: WorkingSet | undefined): readonly AddressRange[] {
  return (
    workingSet?.ranges.map(({ firstPage, endPage }) => ({
      start: firstPage * pageBytes,
      end: endPage * pageBytes,
    })) ?? dataRanges(fd)
  );
}
