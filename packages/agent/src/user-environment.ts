/**
 * The environment that every process of a user begins with: what a login on a Debian machine gives
 * it, overridden by the sandbox and the request.
 *
 * In ascending priority: the agent's defaults, `/etc/environment`, `/etc/default/locale`, the
 * account, the sandbox. Both files are read as pam_env reads them at a login: no shell, no
 * expansion.
 */
import type { User } from "./accounts.ts";
import type { Identity } from "./identity.ts";
import { ParsedFile } from "./parsed-file.ts";

/** LIMIT: the kernel starts no program whose variables have 128 KiB each or 2 MiB together. */
const fileBytesMax = 64 << 10;
const localeDefault = "C.UTF-8";
const localeName = /^(LANG|LANGUAGE|LC_[A-Z]+)$/;

type Variable = readonly [name: string, value: string];

/** Where the variables come from; the fields are those of `AgentConfig`. */
export interface UserEnvironmentOptions {
  /** PATH of a guest whose files set none. */
  readonly path: string;
  readonly identity: Identity;
  readonly environmentFile: string;
  readonly localeFile: string;
}

/** Composes the variables for each new process. */
export class UserEnvironment {
  readonly #path: string;
  readonly #identity: Identity;
  readonly #environment: ParsedFile<Variable>;
  readonly #locale: ParsedFile<Variable>;

  constructor({ path, identity, environmentFile, localeFile }: UserEnvironmentOptions) {
    this.#path = path;
    this.#identity = identity;
    this.#environment = new ParsedFile(environmentFile, fileBytesMax, parseVariable);
    this.#locale = new ParsedFile(localeFile, fileBytesMax, parseVariable);
  }

  /** The variables of a process of that user, before those of the request. */
  of(user: User): Record<string, string> {
    const machine: Record<string, string> = {
      PATH: this.#path,
      LANG: localeDefault,
      ...Object.fromEntries(this.#environment.rows()),
      ...Object.fromEntries(this.#locale.rows().filter(([name]) => localeName.test(name))),
    };
    return {
      ...machine,
      PATH: withOwnPrograms(machine["PATH"] ?? "", user.home),
      HOME: user.home,
      USER: user.name,
      LOGNAME: user.name,
      SHELL: user.shell,
      ...this.#identity.environment(),
    };
  }
}

/**
 * Adds the folder where `pip install --user` and its like put programs; Debian's `.profile` does so
 * for logins only.
 */
function withOwnPrograms(path: string, home: string): string {
  const own = `${home}/.local/bin`;
  return path.split(":").includes(own) ? path : `${own}:${path}`;
}

/**
 * Parses `NAME=value` and `export NAME='value'`; undefined for a comment and for any other line.
 */
function parseVariable(line: string): Variable | undefined {
  const text = line.split("#", 1)[0]?.trim() ?? "";
  const [, name, value] = /^(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$/.exec(text) ?? [];
  if (name === undefined || value === undefined) return undefined;
  const bare = value.trimStart().replace(/^["']/, "").replace(/["']$/, "");
  // A zero byte would keep every program from starting. A variable with an empty value is left out.
  return bare === "" || bare.includes("\0") ? undefined : [name, bare];
}
