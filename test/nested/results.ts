/**
 * What the tests said when they last ran in the machine with KVM, kept for COMPATIBILITY.md: results.json
 * has each VMM with its version, and how each test did that ran with it. A test that did not run is not
 * in it, and nothing of another version is kept.
 */
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { parseJson, parseObject, parseString } from "@torpor/std";
import type { Outcome } from "./console.ts";
import type { VmmName } from "./plan.ts";

const path = join(import.meta.dirname, "results.json");

export interface KeptResults {
  /** As the VMM says it: "Firecracker v1.17.0-dev". */
  readonly version: string;
  /** By `parent › title`, or the title of a test without a parent. */
  readonly tests: Readonly<Record<string, Outcome>>;
}

export type AllResults = Readonly<Partial<Record<VmmName, KeptResults>>>;

export async function readResults(): Promise<AllResults> {
  const text = await readFile(path, "utf8").catch(() => "{}");
  return parseObject(parseJson(text, path), path);
}

/** Over what is known of the same version. A run that came to no test leaves all as it is. */
export async function keepResults(
  vmm: VmmName,
  version: string,
  tests: ReadonlyMap<string, Outcome>,
): Promise<void> {
  const ran = [...tests].filter(([, outcome]) => outcome !== "not run");
  if (ran.length === 0) return;
  const all = await readResults();
  const before = all[vmm];
  const known = before !== undefined && parseString(before.version, "version") === version;
  const merged = { ...(known ? before.tests : {}), ...Object.fromEntries(ran) };
  const sorted = Object.fromEntries(Object.entries(merged).sort(([a], [b]) => (a < b ? -1 : 1)));
  const kept = { ...all, [vmm]: { version, tests: sorted } };
  await writeFile(path, `${JSON.stringify(kept, undefined, 2)}\n`);
}
