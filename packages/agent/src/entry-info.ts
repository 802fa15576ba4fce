/**
 * One file, folder or link as clients see it.
 *
 * Type and mode of a symbolic link are those of its target; permissions and size are its own. A
 * dangling link, and anything that is neither file nor folder, has no type.
 */
import type { MessageInitShape } from "@bufbuild/protobuf";
import { timestampFromMs } from "@bufbuild/protobuf/wkt";
import type { Stats } from "node:fs";
import { basename } from "node:path";
import { type EntryInfoSchema, FileType } from "@torpor/protocol";
import type { Accounts } from "./accounts.ts";
import type { FileWork } from "./file-work.ts";
import { readMetadata } from "./metadata.ts";

/** One entry as the file RPCs answer it. */
export type Entry = MessageInitShape<typeof EntryInfoSchema>;

/**
 * Reads one entry. `path` is absolute.
 * @throws system error: ENOENT when there is nothing, not even a dangling link.
 */
export async function readEntry(path: string, accounts: Accounts, work: FileWork): Promise<Entry> {
  const own = await work.lstat(path);
  const target = own.isSymbolicLink() ? await work.stat(path).catch(() => undefined) : own;
  return {
    name: basename(path),
    type: target === undefined ? FileType.UNSPECIFIED : fileType(target),
    path,
    size: BigInt(own.size),
    mode: (target ?? own).mode & 0o777,
    permissions: permissionText(own),
    owner: accounts.userName(own.uid),
    group: accounts.groupName(own.gid),
    modifiedTime: timestampFromMs(Math.floor(own.mtimeMs)),
    ...(own.isSymbolicLink() ? { symlinkTarget: await linkTarget(path, work) } : {}),
    metadata: target?.isFile() === true ? await readMetadata(path, target, work) : {},
  };
}

function fileType(stats: Stats): FileType {
  if (stats.isFile()) return FileType.FILE;
  if (stats.isDirectory()) return FileType.DIRECTORY;
  return FileType.UNSPECIFIED;
}

async function linkTarget(path: string, work: FileWork): Promise<string> {
  return await work.realpath(path).catch(() => path);
}

/**
 * Formats a file mode as Go prints it: letters for the kind, `-` for a plain file, nine
 * permissions.
 */
function permissionText(stats: Stats): string {
  const letters = [
    stats.isDirectory() ? "d" : "",
    stats.isSymbolicLink() ? "L" : "",
    stats.isBlockDevice() || stats.isCharacterDevice() ? "D" : "",
    stats.isFIFO() ? "p" : "",
    stats.isSocket() ? "S" : "",
    stats.mode & 0o4000 ? "u" : "",
    stats.mode & 0o2000 ? "g" : "",
    stats.isCharacterDevice() ? "c" : "",
    stats.mode & 0o1000 ? "t" : "",
  ].join("");
  const permissions = Array.from("rwxrwxrwx", (letter, index) =>
    stats.mode & (0o400 >> index) ? letter : "-",
  );
  return (letters === "" ? "-" : letters) + permissions.join("");
}
