/** What can be done with a device file, and what opens one that is closed. */
import { constants } from "node:fs";
import { open, readFile, stat } from "node:fs/promises";
import { userInfo } from "node:os";
import { systemCode } from "@torpor/std";

export interface DeviceFacts {
  readonly path: string;
  /** `closed`: there, and not for this user. `dead`: there, and nothing drives it. */
  readonly state: "usable" | "closed" | "dead" | "missing";
  /** Whose members may use it; undefined: nobody's, or it is not there. */
  readonly group: string | undefined;
}

const groupMayUse = 0o060;

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

/** One line: what root does, so that this user may open it. */
export function deviceAdvice({ path, state, group }: DeviceFacts): string {
  if (state !== "closed") return `Use a machine with ${path}; in a container, pass it in.`;
  const user = userName();
  return group === undefined
    ? `Run as root: setfacl --modify u:${user}:rw ${path}`
    : `Run as root: usermod --append --groups ${group} ${user}; then log in again.`;
}

/** In a container a user may have none. */
function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.getuid?.());
  }
}

/** Its name, unless it is root's, which nobody should be given. */
async function groupOf(path: string): Promise<string | undefined> {
  const { gid, mode } = await stat(path);
  if (gid === 0 || (mode & groupMayUse) !== groupMayUse) return undefined;
  const groups = await readFile("/etc/group", "utf8").catch(() => "");
  const line = groups.split("\n").find((one) => one.split(":")[2] === String(gid));
  return line?.split(":")[0];
}
