/**
 * The two kinds of secret that identify clients of the TCP listener: API keys, for everything about
 * sandboxes, and access tokens, for managing the keys.
 *
 * The daemon shows a secret once, when it creates it, and stores only its hash. The shape of an API
 * key, `e2b_` and 40 hex digits, satisfies every E2B client. All secrets of a kind are held in
 * memory, because every request looks one up.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { TorporError } from "@torpor/std";
import type { Database } from "./records/database.ts";

const shapes = {
  "api-key": { prefix: "e2b_", pattern: /^e2b_[0-9a-f]{40}$/ },
  "access-token": { prefix: "sk_e2b_", pattern: /^sk_e2b_[0-9a-f]{40}$/ },
} as const;
const secretBytes = 20;
const shownPrefixChars = 6;
const shownSuffixChars = 4;

/** `api-key` or `access-token`. */
export type KeyKind = keyof typeof shapes;

/** The public part of a key, without its secret. */
export interface ApiKeyInfo {
  readonly id: string;
  readonly name: string;
  /** First characters, to tell keys apart in a list. */
  readonly prefix: string;
  /** Last characters; empty for keys from before they were stored. */
  readonly suffix: string;
  readonly createdAtMs: number;
}

/** The secrets of one kind, in the database and in memory. */
export class ApiKeys {
  readonly #database: Database;
  readonly #kind: KeyKind;
  readonly #byHash = new Map<string, ApiKeyInfo>();

  private constructor(database: Database, kind: KeyKind) {
    this.#database = database;
    this.#kind = kind;
  }

  /** Reads all keys of this kind from the database. */
  static async open(database: Database, kind: KeyKind): Promise<ApiKeys> {
    const keys = new ApiKeys(database, kind);
    const rows = await database
      .selectFrom("api_keys")
      .selectAll()
      .where("kind", "=", kind)
      .orderBy("created_at_ms")
      .execute();
    for (const { id, name, prefix, suffix, created_at_ms, key_sha256 } of rows) {
      const info = { id, name, prefix, suffix: suffix ?? "", createdAtMs: created_at_ms };
      keys.#byHash.set(key_sha256, info);
    }
    return keys;
  }

  /** Creates a key. The result is the only place where its secret is shown. */
  async create(name: string): Promise<ApiKeyInfo & { readonly key: string }> {
    const { prefix } = shapes[this.#kind];
    const key = `${prefix}${randomBytes(secretBytes).toString("hex")}`;
    const info = {
      id: randomUUID(),
      name,
      prefix: key.slice(0, prefix.length + shownPrefixChars),
      suffix: key.slice(-shownSuffixChars),
      createdAtMs: Date.now(),
    };
    const hash = this.#hashOf(key);
    await this.#database
      .insertInto("api_keys")
      .values({
        id: info.id,
        kind: this.#kind,
        name,
        prefix: info.prefix,
        suffix: info.suffix,
        created_at_ms: info.createdAtMs,
        key_sha256: hash,
      })
      .execute();
    this.#byHash.set(hash, info);
    return { ...info, key };
  }

  /** All keys, oldest first. */
  list(): readonly ApiKeyInfo[] {
    return [...this.#byHash.values()];
  }

  /** Gives a key another name. @throws key.missing */
  async rename(id: string, name: string): Promise<void> {
    const [hash, info] = this.#get(id);
    await this.#database.updateTable("api_keys").set({ name }).where("id", "=", id).execute();
    this.#byHash.set(hash, { ...info, name });
  }

  /** Deletes a key, which is refused from now on. @throws key.missing */
  async remove(id: string): Promise<void> {
    const [hash] = this.#get(id);
    // ORDER: refused from this moment on, even if the database fails.
    this.#byHash.delete(hash);
    await this.#database.deleteFrom("api_keys").where("id", "=", id).execute();
  }

  /**
   * The key's info, or undefined for an unknown key. It looks up a hash, so its time reveals
   * nothing.
   */
  find(key: string): ApiKeyInfo | undefined {
    return shapes[this.#kind].pattern.test(key) ? this.#byHash.get(this.#hashOf(key)) : undefined;
  }

  #get(id: string): readonly [string, ApiKeyInfo] {
    for (const entry of this.#byHash) if (entry[1].id === id) return entry;
    throw new TorporError("key.missing", `there is no ${this.#kind} ${id}`);
  }

  #hashOf(key: string): string {
    const digits = key.slice(shapes[this.#kind].prefix.length);
    return createHash("sha256").update(Buffer.from(digits, "hex")).digest("hex");
  }
}
