/** Lists the copies of the VMM in a cache, which of them are needed, and which cannot be used. */
import { readdir } from "node:fs/promises";
import { TorporError } from "@torpor/std";
import { TemplateStore, templatesFolder, vmmCopyFolder, vmmCopyPrefix } from "@torpor/storage";
import { copiedQemu, readDescription } from "@torpor/vmm";

/** A copy, and whether its files match their checksums. */
export interface VmmCopyState {
  readonly key: string;
  /** Undefined when the copy does not record it. */
  readonly version: string | undefined;
  /** Whether a template was made with it. */
  readonly isUsed: boolean;
  /** Undefined if every file is intact. */
  readonly problem: TorporError | undefined;
}

/** Reads every file of every copy. Changes nothing. */
export async function inspectVmmCopies(cacheFolder: string): Promise<readonly VmmCopyState[]> {
  const used = await usedKeys(cacheFolder);
  const names = await readdir(cacheFolder).catch(() => []);
  const there = names
    .filter((name) => name.startsWith(vmmCopyPrefix))
    .map((name) => name.slice(vmmCopyPrefix.length));
  const states: VmmCopyState[] = [];
  for (const key of [...used.union(new Set(there))].sort()) {
    states.push({ key, isUsed: used.has(key), ...(await inspect(cacheFolder, key)) });
  }
  return states;
}

async function inspect(
  cacheFolder: string,
  key: string,
): Promise<Pick<VmmCopyState, "version" | "problem">> {
  const folder = vmmCopyFolder(cacheFolder, key);
  let version: string | undefined;
  try {
    ({ version } = await readDescription(folder));
    await copiedQemu(folder, key).verify();
    return { version, problem: undefined };
  } catch (cause) {
    return { version, problem: TorporError.from(cause, "storage.failed") };
  }
}

async function usedKeys(cacheFolder: string): Promise<ReadonlySet<string>> {
  const templates = new TemplateStore(templatesFolder(cacheFolder));
  const keys = new Set<string>();
  for (const id of await templates.ids()) {
    // A template that cannot be opened is the concern of another check.
    const template = await templates.open(id).catch(() => undefined);
    if (template?.manifest.vmmCopy !== undefined) keys.add(template.manifest.vmmCopy);
  }
  return keys;
}
