/** Inspects device files: whether this user can use one, and how root can give access to it. */
import { constants } from "node:fs";
import { open, readFile, stat } from "node:fs/promises";
import { userInfo } from "node:os";
import { systemCode } from "@torpor/std";

/** A device file as this user sees it. */
export interface DeviceFacts {
  readonly path: string;
  /** `closed`: it exists, but not for this user. `dead`: it exists, but no driver serves it. */
  readonly state: "usable" | "closed" | "dead" | "missing";
  /** The group whose members may use it; undefined if there is none, or no such device. */
  readonly group: string | undefined;
}

const groupMayUse = 0o060;

/** Opens the device to see whether this user can use it. */
export async function inspectDevice(path: string): Promise<DeviceFacts> {
  try {
    const handle = await open(path, constants.O_RDWR);
    await handle.close();
    return { path, state: "usable", group: undefined };
  } catch (cause) {
    const code = systemCode(cause);
    if (code === "ENOENT") return { path, state: "missing", group: undefined };
    const isClosed = code === "EACCES" || code === "EPERM";
    return { path, state: isClosed ? "closed" : "dead", group: await groupOf(path) };
  }
}

/** One line: what root must do so that this user may open the device. */
export function deviceAdvice({ path, state, group }: DeviceFacts): string {
  if (state !== "closed") return `Use a machine with ${path}; in a container, pass it in.`;
  const user = userName();
  return group === undefined
    ? `Run as root: setfacl --modify u:${user}:rw ${path}`
    : `Run as root: usermod --append --groups ${group} ${user}; then log in again.`;
}

/** In a container a user may have no name. */
function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.getuid?.());
  }
}

/** The name of the file's group, unless that is root's, which nobody should be given. */
async function groupOf(path: string): Promise<string | undefined> {
  const { gid, mode } = await stat(path);
  if (gid === 0 || (mode & groupMayUse) !== groupMayUse) return undefined;
  const groups = await readFile("/etc/group", "utf8").catch(() => "");
  const line = groups.split("\n").find((one) => one.split(":")[2] === String(gid));
  return line?.split(":")[0];
}
