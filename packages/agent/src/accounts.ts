/**
 * Users and groups of the guest, from /etc/passwd and /etc/group. Programs may add some at any
 * time.
 */
import { ParsedFile } from "./parsed-file.ts";

/** LIMIT: some ten thousand accounts. */
const fileBytesMax = 1 << 20;
const shellDefault = "/bin/sh";

/** One line of /etc/passwd, with the user's groups. An empty home or shell has its default. */
export interface User {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  readonly shell: string;
  /** Ids of the groups that list the user, without the primary group. */
  readonly otherGroups: readonly number[];
}

interface Group {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

/** Looks users and groups up; each look-up reads the files again if they have changed. */
export class Accounts {
  readonly #users: ParsedFile<Omit<User, "otherGroups">>;
  readonly #groups: ParsedFile<Group>;

  constructor(passwdFile = "/etc/passwd", groupFile = "/etc/group") {
    this.#users = new ParsedFile(passwdFile, fileBytesMax, parseUser);
    this.#groups = new ParsedFile(groupFile, fileBytesMax, parseGroup);
  }

  /** Undefined when no user has that name. */
  findUser(name: string): User | undefined {
    const user = this.#users.rows().find((row) => row.name === name);
    if (user === undefined) return undefined;
    const otherGroups = this.#groups
      .rows()
      .filter((group) => group.gid !== user.gid && group.members.includes(name))
      .map((group) => group.gid);
    return { ...user, otherGroups };
  }

  /** The name of the user with that id, or the id itself as text if it has no name. */
  userName(uid: number): string {
    return this.#users.rows().find((row) => row.uid === uid)?.name ?? String(uid);
  }

  /** The name of the group with that id, or the id itself as text if it has no name. */
  groupName(gid: number): string {
    return this.#groups.rows().find((row) => row.gid === gid)?.name ?? String(gid);
  }
}

function parseUser(line: string): Omit<User, "otherGroups"> | undefined {
  const [name, , uid, gid, , home, shell = ""] = line.split(":");
  if (name === undefined || uid === undefined || gid === undefined || home === undefined) {
    return undefined;
  }
  if (!/^\d+$/.test(uid) || !/^\d+$/.test(gid)) return undefined;
  return {
    name,
    uid: Number(uid),
    gid: Number(gid),
    home: home === "" ? "/" : home,
    shell: shell === "" ? shellDefault : shell,
  };
}

function parseGroup(line: string): Group | undefined {
  const [name, , gid, members] = line.split(":");
  if (name === undefined || gid === undefined || !/^\d+$/.test(gid)) return undefined;
  return { name, gid: Number(gid), members: members?.split(",") ?? [] };
}
