/** How a pager ended: the last line of its log, which it wrote unless it was killed. */
import { readFile } from "node:fs/promises";
import { type ErrorBody, TorporError } from "@torpor/std";
import { logPath } from "./pager-options.ts";

/** `vmEnded`: a regular end, because its VM ended or was ended with it. */
export type PagerEnd =
  { readonly kind: "vmEnded" } | { readonly kind: "failed"; readonly error: TorporError };

/** The last line of the log, as JSON without a line break. */
export function lastWords(end: PagerEnd): string {
  return JSON.stringify(end.kind === "vmEnded" ? { ended: true } : { error: end.error.toBody() });
}

/**
 * Reads how the pager of this run ended. Never rejects: a pager that wrote no last line was killed.
 */
export async function readLastWords(runFolder: string): Promise<PagerEnd> {
  const path = logPath(runFolder);
  const log = await readFile(path, "utf8").catch(() => "");
  const words = parse(log.trim().split("\n").at(-1) ?? "");
  if (words?.ended === true) return { kind: "vmEnded" };
  const error =
    words?.error === undefined
      ? new TorporError("vmm.failed", `the VM's pager was killed; see ${path}`)
      : TorporError.fromBody(words.error);
  return { kind: "failed", error };
}

/** Not checked further, as our own code wrote it; a line that was cut short is undefined. */
function parse(line: string): { readonly ended?: boolean; readonly error?: ErrorBody } | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
