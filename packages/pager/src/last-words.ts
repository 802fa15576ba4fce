/** How a pager ended: the last line of its log, which it wrote unless it was killed. */
import { readFile } from "node:fs/promises";
import { type ErrorBody, TorporError } from "@torpor/std";
import { logPath } from "./pager-options.ts";

/** `vmEnded`: as it should, its VM having ended or been ended with it. */
export type PagerEnd =
  { readonly kind: "vmEnded" } | { readonly kind: "failed"; readonly error: TorporError };

export function lastWords(end: PagerEnd): string {
  return JSON.stringify(end.kind === "vmEnded" ? { ended: true } : { error: end.error.toBody() });
}

/** Never rejects: one without last words was killed. */
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

/** Ours; a line that was cut short is none. */
function parse(line: string): { readonly ended?: boolean; readonly error?: ErrorBody } | undefined {
  try {
    const value: unknown = JSON.parse(line);
    return typeof value === "object" && value !== null ? value : undefined;
  } catch {
    return undefined;
  }
}
