/**
 * Users and groups of the guest, from /etc/passwd and /etc/group.
 *
 * Read synchronously: the files are small and local. They are parsed again when they have changed,
 * because a user may be added at any time.
 */
import { readFileSync, statSync } from "node:fs";

export interface User {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly home: string;
  /** Ids of the groups that list the user, without the primary one. */
  readonly otherGroups: readonly number[];
}

interface Group {
  readonly name: string;
  readonly gid: number;
  readonly members: readonly string[];
}

export class Accounts {
  readonly #users: ParsedFile<Omit<User, "otherGroups">>;
  readonly #groups: ParsedFile<Group>;

  constructor(passwdFile = "/etc/passwd", groupFile = "/etc/group") {
    this.#users = new ParsedFile(passwdFile, parseUser);
    this.#groups = new ParsedFile(groupFile, parseGroup);
  }

  findUser(name: string): User | undefined {
    const user = this.#users.rows().find((row) => row.name === name);
    if (user === undefined) return undefined;
    const otherGroups = this.#groups
      .rows()
      .filter((group) => group.gid !== user.gid && group.members.includes(name))
      .map((group) => group.gid);
    return { ...user, otherGroups };
  }

  /** The number itself where nobody has that name. */
  userName(uid: number): string {
    return this.#users.rows().find((row) => row.uid === uid)?.name ?? String(uid);
  }

  groupName(gid: number): string {
    return this.#groups.rows().find((row) => row.gid === gid)?.name ?? String(gid);
  }
}

class ParsedFile<Row> {
  readonly #path: string;
  readonly #parse: (fields: readonly string[]) => Row | undefined;
  /** SNAPSHOT: a copy of a file of the same guest; `#stamp` notices when it no longer is. */
  #rows: readonly Row[] = [];
  #stamp = "";

  constructor(path: string, parse: (fields: readonly string[]) => Row | undefined) {
    this.#path = path;
    this.#parse = parse;
  }

  rows(): readonly Row[] {
    const stats = statSync(this.#path, { throwIfNoEntry: false });
    if (stats === undefined) return [];
    const stamp = `${stats.ino} ${stats.mtimeMs} ${stats.size}`;
    if (stamp !== this.#stamp) {
      const lines = readFileSync(this.#path, "utf8").split("\n");
      this.#rows = lines
        .map((line) => this.#parse(line.split(":")))
        .filter((row) => row !== undefined);
      this.#stamp = stamp;
    }
    return this.#rows;
  }
}

function parseUser(fields: readonly string[]): Omit<User, "otherGroups"> | undefined {
  const [name, , uid, gid, , home] = fields;
  if (name === undefined || uid === undefined || gid === undefined || home === undefined) {
    return undefined;
  }
  if (!/^\d+$/.test(uid) || !/^\d+$/.test(gid)) return undefined;
  return { name, uid: Number(uid), gid: Number(gid), home: home === "" ? "/" : home };
}

function parseGroup(fields: readonly string[]): Group | undefined {
  const [name, , gid, members] = fields;
  if (name === undefined || gid === undefined || !/^\d+$/.test(gid)) return undefined;
  return { name, gid: Number(gid), members: members?.split(",") ?? [] };
}
