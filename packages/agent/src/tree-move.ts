/**
 * Moves a file or folder. Where `rename` does not reach, to another file system, it copies, puts
 * the copy into its place in one step, and only then removes the source. It replaces the same
 * things that `rename` replaces.
 *
 * Until then the copy and, for a moment, the source have a temporary name, which begins with
 * `.move-`. If anything fails before the copy is in its place, everything is as it was. A client
 * that disconnects counts as a failure while the copy is made, and not afterwards.
 */
import { dirname, join } from "node:path";
import { systemCode } from "@torpor/std";
import { freshBytes } from "./entropy.ts";
import { FileWork } from "./file-work.ts";
import { copyTree } from "./tree-copy.ts";
import { removeTree } from "./tree-removal.ts";

/**
 * Moves `from` to `to`.
 * @throws system error, with nothing done, unless everything is at `to` and only the rest of `from`
 *   could not be removed
 */
export async function moveTree(from: string, to: string, work: FileWork): Promise<void> {
  try {
    await work.rename(from, to);
  } catch (cause) {
    if (systemCode(cause) !== "EXDEV") throw cause;
    await moveAcross(from, to, work);
  }
}

async function moveAcross(from: string, to: string, work: FileWork): Promise<void> {
  await checkReplaceable(from, to, work);
  const untilDone = FileWork.untilDone();
  const copy = unusedSibling(to);
  const old = unusedSibling(from);
  await using undo = new AsyncDisposableStack();
  undo.defer(async () => await removeTree(copy, untilDone));
  await copyTree(from, copy, work);
  // ORDER: shows whether the source may be removed from its place, while that can still be undone.
  await untilDone.rename(from, old);
  undo.defer(async () => await untilDone.rename(old, from));
  await untilDone.rename(copy, to);
  undo.move();
  try {
    await removeTree(old, untilDone);
  } catch (cause) {
    // The rest must be found under the name the client knows.
    await untilDone.rename(old, from).catch(() => undefined);
    throw cause;
  }
}

/** Reports before a long copy what `rename` would report after it. @throws system error */
async function checkReplaceable(from: string, to: string, work: FileWork): Promise<void> {
  const existing = await work.lstat(to).catch((cause: unknown) => {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw cause;
  });
  if (existing === undefined) return;
  const isFolder = (await work.lstat(from)).isDirectory();
  if (isFolder && !existing.isDirectory()) throw refusal("ENOTDIR", "a file is in its place");
  if (!isFolder && existing.isDirectory()) throw refusal("EISDIR", "a directory is in its place");
  if (!isFolder) return;
  for await (const { name } of work.entries(to)) {
    throw refusal("ENOTEMPTY", `the directory in its place is not empty: it has '${name}'`);
  }
}

function unusedSibling(path: string): string {
  return join(dirname(path), `.move-${freshBytes(8).toString("hex")}`);
}

function refusal(code: string, message: string): Error {
  return Object.assign(new TypeError(message), { code });
}
