/**
 * Who this sandbox is and what it demands: replaced as a whole by each `init`.
 *
 * SNAPSHOT: a restored agent holds the identity of the run that was saved, keys and token included;
 * the first `init` replaces it before any user code runs and before new work is taken.
 */
import { timingSafeEqual } from "node:crypto";
import { mkdirSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { InitRequest } from "@torpor/protocol";
import { parseJson, systemCode } from "@torpor/std";

export interface IdentityFields {
  /** 0 before the first init. */
  readonly generation: number;
  /** Null before the first init: no user code has run yet, so anyone who calls is the host. */
  readonly hostKey: string | null;
  /** Null: no token is demanded. */
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

export class Identity {
  #fields: IdentityFields;
  readonly #path: string | null;
  /** The key that the last init was authorised by, for a host that repeats it. */
  #previousHostKey: string | null = null;

  private constructor(fields: IdentityFields, path: string | null) {
    this.#fields = fields;
    this.#path = path;
  }

  /**
   * Of an agent that starts. One that takes the place of another reads what that one was told: without
   * it, it would take the first caller for the host, and user code may be calling by then.
   * @param path A file in memory that only root may read; null keeps nothing.
   */
  static open(path: string | null): Identity {
    return new Identity((path === null ? undefined : readFields(path)) ?? unborn, path);
  }

  get current(): IdentityFields {
    return this.#fields;
  }

  replace(request: InitRequest): void {
    // A repeated half-done init must not push the key it came with out of memory.
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

  acceptsHostKey(key: string | undefined): boolean {
    return this.#fields.hostKey === null || sameSecret(this.#fields.hostKey, key);
  }

  /**
   * Whether `key` may repeat the last init. A host whose first attempt succeeded without its knowing
   * still sends the key of before.
   */
  acceptsRepeatedInit(key: string | undefined): boolean {
    if (this.acceptsHostKey(key)) return true;
    return this.#previousHostKey !== null && sameSecret(this.#previousHostKey, key);
  }

  acceptsToken(token: string | undefined): boolean {
    return this.#fields.accessToken === null || sameSecret(this.#fields.accessToken, token);
  }

  /** Variables every process sees, below those of the single request. */
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

/** The file is the agent's own: `writeFields` made it, and nobody but root can change it. */
function readFields(path: string): IdentityFields | undefined {
  try {
    return parseJson(readFileSync(path, "utf8"), path) as IdentityFields;
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw cause;
  }
}

function writeFields(path: string, fields: IdentityFields): void {
  // The folder is everybody's: other files in it tell programs of the guest about it.
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  const staged = `${path}.new`;
  writeFileSync(staged, JSON.stringify(fields), { mode: 0o600 });
  renameSync(staged, path);
}

/** Compares without revealing by its duration where the first difference is. */
export function sameSecret(expected: string, given: string | undefined): boolean {
  if (given === undefined) return false;
  const expectedBytes = Buffer.from(expected);
  const givenBytes = Buffer.from(given);
  if (expectedBytes.length !== givenBytes.length) return false;
  return timingSafeEqual(expectedBytes, givenBytes);
}

/**
 * Files by which programs recognise the sandbox they are in. Written at once and not by Node's
 * thread pool: the folder is in memory, and every wake waits for this.
 */
export function writeMarkers(folder: string, identity: IdentityFields): void {
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, ".E2B_SANDBOX"), "true");
  writeFileSync(join(folder, ".E2B_SANDBOX_ID"), identity.sandboxId);
  writeFileSync(join(folder, ".E2B_TEMPLATE_ID"), identity.templateId);
}
