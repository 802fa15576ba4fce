/** Creates a folder and the missing folders above it, each owned by one user. */
import { dirname } from "node:path";
import { systemCode } from "@torpor/std";
import type { User } from "./accounts.ts";
import type { FileWork } from "./file-work.ts";

const folderMode = 0o755;

/**
 * Creates the folder. A folder that exists is left unchanged; a race for the same folder is not a
 * failure.
 * @throws system error: EEXIST or ENOTDIR when something on the way is not a folder.
 */
export async function makeOwnedFolder(path: string, user: User, work: FileWork): Promise<void> {
  const made = await tryMake(path, work);
  if (made === "exists") {
    if (!(await work.stat(path)).isDirectory()) {
      throw Object.assign(new TypeError(`not a directory, '${path}'`), { code: "ENOTDIR" });
    }
    return;
  }
  if (made === "noParent") {
    await makeOwnedFolder(dirname(path), user, work);
    await makeOwnedFolder(path, user, work);
    return;
  }
  await work.chown(path, user.uid, user.gid);
}

async function tryMake(path: string, work: FileWork): Promise<"made" | "exists" | "noParent"> {
  try {
    await work.mkdir(path, folderMode);
    return "made";
  } catch (cause) {
    if (systemCode(cause) === "EEXIST") return "exists";
    // The root always exists; a missing parent above a dangling link would recurse for ever.
    if (systemCode(cause) === "ENOENT" && dirname(path) !== path) return "noParent";
    throw cause;
  }
}
