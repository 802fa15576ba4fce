/** Decides which OS user a request acts as, and what its paths mean. */
import { posix } from "node:path";
import { Code, ConnectError } from "@connectrpc/connect";
import type { Accounts, User } from "./accounts.ts";
import type { Identity } from "./identity.ts";

/** The user of `Authorization: Basic base64("<user>:")`, or undefined if none is named. */
export function userNameOfHeader(authorization: string | null): string | undefined {
  const match = /^basic\s+(\S+)\s*$/i.exec(authorization ?? "");
  if (match?.[1] === undefined) return undefined;
  const name = Buffer.from(match[1], "base64").toString("utf8").split(":", 1)[0];
  return name === "" ? undefined : name;
}

/**
 * Finds the user of a request; without a name, the sandbox's default user.
 * @throws ConnectError unauthenticated when there is no such user.
 */
export function resolveUser(
  name: string | undefined,
  accounts: Accounts,
  identity: Identity,
): User {
  const wanted = name ?? identity.current.defaultUser;
  const user = accounts.findUser(wanted);
  if (user === undefined) {
    throw new ConnectError(`invalid username: '${wanted}'`, Code.Unauthenticated);
  }
  return user;
}

/**
 * Makes a path of a request absolute. An empty path means the default folder, `~` the home; a
 * relative path is relative to the home, not to the default folder.
 * @throws ConnectError invalid_argument
 */
export function resolvePath(path: string, user: User, defaultWorkdir: string | null): string {
  if (path.includes("\0")) {
    throw new ConnectError("path must not contain a zero byte", Code.InvalidArgument);
  }
  // JSON can carry half a surrogate pair, which the disk cannot: the name there would be another
  // one.
  if (!path.isWellFormed()) {
    throw new ConnectError("path must be valid Unicode", Code.InvalidArgument);
  }
  if (path === "") return posix.resolve(user.home, defaultWorkdir ?? "");
  if (path === "~" || path.startsWith("~/")) return posix.join(user.home, `.${path.slice(1)}`);
  if (path.startsWith("~")) {
    throw new ConnectError(
      `cannot expand the home of another user: '${path}'`,
      Code.InvalidArgument,
    );
  }
  return posix.resolve(user.home, path);
}
