/**
 * The identity of this sandbox and the secrets it demands. Each `init` replaces it as a whole.
 *
 * SNAPSHOT: a restored agent holds the identity of the run that was saved, keys and token included;
 * the first `init` replaces it before any user code runs and before new work is taken.
 */
import { timingSafeEqual } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { InitRequest } from "@torpor/protocol";
import { parseJson, systemCode } from "@torpor/std";

/** The fields an init sets; kept in a file for an agent that is restarted. */
export interface IdentityFields {
  /** 0 before the first init. */
  readonly generation: number;
  /** Null before the first init: no user code has run yet, so the caller can only be the host. */
  readonly hostKey: string | null;
  /** The token clients must send; null: the agent demands none. */
  readonly accessToken: string | null;
  readonly sandboxId: string;
  readonly templateId: string;
  readonly envVars: Readonly<Record<string, string>>;
  readonly defaultUser: string;
  readonly defaultWorkdir: string | null;
}

const unborn: IdentityFields = {
  generation: 0,
  hostKey: null,
  accessToken: null,
  sandboxId: "",
  templateId: "",
  envVars: {},
  defaultUser: "root",
  defaultWorkdir: null,
};

/** Holds the identity and compares the secrets that callers send with it. */
export class Identity {
  #fields: IdentityFields;
  readonly #path: string | null;
  /** The key that authorised the last init, for a host that repeats it. */
  #previousHostKey: string | null = null;

  private constructor(fields: IdentityFields, path: string | null) {
    this.#fields = fields;
    this.#path = path;
  }

  /**
   * Opens the identity of an agent that starts. An agent that replaces another reads what that one
   * was given: otherwise it would take the first caller for the host, and user code may be calling
   * by then.
   * @param path A file in memory that only root may read; null keeps nothing.
   */
  static open(path: string | null): Identity {
    return new Identity((path === null ? undefined : readFields(path)) ?? unborn, path);
  }

  get current(): IdentityFields {
    return this.#fields;
  }

  /** Takes the identity of an init on, and saves it. @throws system error */
  replace(request: InitRequest): void {
    // An init that failed half-way and is repeated must not push the key it came with out of
    // memory.
    if (request.hostKey !== this.#fields.hostKey) this.#previousHostKey = this.#fields.hostKey;
    this.#fields = {
      generation: request.generation,
      hostKey: request.hostKey,
      accessToken: request.accessToken,
      sandboxId: request.sandboxId,
      templateId: request.templateId,
      envVars: request.envVars ?? this.#fields.envVars,
      defaultUser: request.defaultUser,
      defaultWorkdir: request.defaultWorkdir,
    };
    if (this.#path !== null) writeFields(this.#path, this.#fields);
  }

  /** Whether `key` authorises the host's routes. True for any key before the first init. */
  acceptsHostKey(key: string | undefined): boolean {
    return this.#fields.hostKey === null || sameSecret(this.#fields.hostKey, key);
  }

  /**
   * Whether `key` may repeat the last init. If its first attempt succeeded but the answer was lost,
   * the host still sends the previous key.
   */
  acceptsRepeatedInit(key: string | undefined): boolean {
    if (this.acceptsHostKey(key)) return true;
    return this.#previousHostKey !== null && sameSecret(this.#previousHostKey, key);
  }

  /** Whether a client may call with `token`. True for any token if the sandbox demands none. */
  acceptsToken(token: string | undefined): boolean {
    return this.#fields.accessToken === null || sameSecret(this.#fields.accessToken, token);
  }

  /** Variables of every process; those of a single request override them. */
  environment(): Record<string, string> {
    const { sandboxId, templateId, envVars } = this.#fields;
    return {
      E2B_SANDBOX: "true",
      ...(sandboxId === "" ? {} : { E2B_SANDBOX_ID: sandboxId }),
      ...(templateId === "" ? {} : { E2B_TEMPLATE_ID: templateId }),
      ...envVars,
    };
  }
}

/** Trusts the file's shape: `writeFields` wrote it, and only root can change it. */
function readFields(path: string): IdentityFields | undefined {
  try {
    return parseJson(readFileSync(path, "utf8"), path) as IdentityFields;
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw cause;
  }
}

function writeFields(path: string, fields: IdentityFields): void {
  // Every user may enter the folder: programs of the guest read other files in it.
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const staged = `${path}.new`;
  writeFileSync(staged, JSON.stringify(fields), { mode: 0o600 });
  renameSync(staged, path);
}

/**
 * Compares in a time that does not reveal where the first difference is. False when nothing is
 * given.
 */
export function sameSecret(expected: string, given: string | undefined): boolean {
  if (given === undefined) return false;
  const expectedBytes = Buffer.from(expected);
  const givenBytes = Buffer.from(given);
  if (expectedBytes.length !== givenBytes.length) return false;
  return timingSafeEqual(expectedBytes, givenBytes);
}

/**
 * Writes the files by which programs recognise the sandbox they are in. It writes synchronously,
 * not in Node's thread pool: the folder is in memory, and every wake waits for this.
 * @throws system error
 */
export function writeMarkers(folder: string, identity: IdentityFields): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, ".E2B_SANDBOX"), "true");
  writeFileSync(join(folder, ".E2B_SANDBOX_ID"), identity.sandboxId);
  writeFileSync(join(folder, ".E2B_TEMPLATE_ID"), identity.templateId);
}
