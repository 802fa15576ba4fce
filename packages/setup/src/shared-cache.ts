/**
 * A cache that root filled, for users who are not root and cannot fill one.
 *
 * Set-up makes everything readable by its owner only. `torpor up --share` opens the cache to all
 * users of the machine, for reading; from then on every set-up also opens what it adds.
 */
import { constants } from "node:fs";
import { access, chmod, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { TorporError, systemCode } from "@torpor/std";
import { type Template, TemplateStore, templatesFolder, vmmCopyPrefix } from "@torpor/storage";
import { deviceAdvice, inspectDevice } from "./device.ts";

const readable = 0o444;
const searchable = 0o111;
const program = fileURLToPath(new URL("../../cli/bin/torpor.mjs", import.meta.url));

/** The command that root types to share this cache with other users. */
export function shareCommand(cacheFolder: string): string {
  return `TORPOR_CACHE=${cacheFolder} ${program} up --share`;
}

/**
 * Returns the template that sandboxes are made from, if it exists and this user can use it as it
 * is.
 * @throws root.required when the cache is closed to this user; vmm.missing when the KVM it needs is
 * not usable
 */
export async function findSharedTemplate(
  cacheFolder: string,
  name: string,
): Promise<Template | undefined> {
  const closed = await findClosed(cacheFolder);
  if (closed !== undefined) {
    throw new TorporError("root.required", `${closed} is closed to this user`, {
      advice: `Run as root: ${shareCommand(cacheFolder)}`,
    });
  }
  const store = new TemplateStore(templatesFolder(cacheFolder));
  const template = await store.open(name).catch((cause: unknown) => {
    if (TorporError.is(cause) && cause.code === "template.missing") return undefined;
    throw cause;
  });
  if (template?.manifest.identity.accelerator === "kvm") await requireKvm();
  return template;
}

async function requireKvm(): Promise<void> {
  const path = "/dev/kvm";
  const device = await inspectDevice(path);
  if (device.state === "usable") return;
  const what = device.state === "closed" ? "closed to this user" : "not there";
  throw new TorporError("vmm.missing", `the template runs under KVM, and ${path} is ${what}`, {
    advice: deviceAdvice(device),
  });
}

/**
 * Finds the first folder or file of the cache that this user cannot read; undefined if there is
 * none, or no cache.
 */
export async function findClosed(cacheFolder: string): Promise<string | undefined> {
  for (const path of await pathsBelow(cacheFolder, ["templates", vmmCopyPrefix])) {
    if (path.closed) return path.path;
  }
  return undefined;
}

interface FoundPath {
  readonly path: string;
  readonly closed: boolean;
}

/** Lists a folder, and the entries whose names begin with one of `beginnings`, with all below. */
async function pathsBelow(
  folder: string,
  beginnings: readonly string[],
): Promise<readonly FoundPath[]> {
  try {
    await access(folder, constants.R_OK | constants.X_OK);
    const entries = await readdir(folder, { withFileTypes: true });
    const found: FoundPath[] = [];
    for (const entry of entries) {
      if (!beginnings.some((one) => entry.name.startsWith(one))) continue;
      const path = join(folder, entry.name);
      if (entry.isDirectory()) found.push(...(await pathsBelow(path, [""])));
      else if (entry.isFile()) found.push({ path, closed: !(await isReadable(path)) });
    }
    return found;
  } catch (cause) {
    return systemCode(cause) === "ENOENT" ? [] : [{ path: folder, closed: true }];
  }
}

async function isReadable(path: string): Promise<boolean> {
  return access(path, constants.R_OK).then(
    () => true,
    () => false,
  );
}

/** Whether other users may read the cache, so that additions must be opened to them, too. */
export async function isShared(cacheFolder: string): Promise<boolean> {
  const { mode } = await stat(cacheFolder);
  return (mode & 0o005) === 0o005;
}

/** Lets every user of the machine read all of the cache. Leaves links alone. */
export async function shareCache(cacheFolder: string): Promise<void> {
  await open(cacheFolder, readable | searchable);
  for (const entry of await readdir(cacheFolder, { withFileTypes: true })) {
    const path = join(cacheFolder, entry.name);
    if (entry.isDirectory()) await shareCache(path);
    else if (entry.isFile()) await open(path, readable);
  }
}

/** Adds permission bits; an executable file stays one, for all users. */
async function open(path: string, bits: number): Promise<void> {
  const { mode } = await stat(path);
  const programBits = (mode & 0o100) === 0 ? 0 : searchable;
  await chmod(path, (mode & 0o7777) | bits | programBits);
}
