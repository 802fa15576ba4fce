/**
 * Keys that authorise requests on the TCP listener. A key is shown once, when it is made; the
 * database holds its hash only. The shape, `e2b_` and 40 hex digits, satisfies every E2B client.
 */
import { createHash, randomBytes, randomUUID } from "node:crypto";
import type { Database } from "./records/database.ts";

const keyPattern = /^e2b_[0-9a-f]{40}$/;
const shownPrefixChars = 10;

export interface ApiKeyInfo {
  readonly id: string;
  readonly name: string;
  readonly prefix: string;
  readonly createdAtMs: number;
}

export class ApiKeys {
  readonly #database: Database;

  constructor(database: Database) {
    this.#database = database;
  }

  async create(name: string): Promise<ApiKeyInfo & { readonly key: string }> {
    const key = `e2b_${randomBytes(20).toString("hex")}`;
    const info = {
      id: randomUUID(),
      name,
      prefix: key.slice(0, shownPrefixChars),
      createdAtMs: Date.now(),
    };
    await this.#database
      .insertInto("api_keys")
      .values({
        id: info.id,
        name,
        prefix: info.prefix,
        created_at_ms: info.createdAtMs,
        key_sha256: hashOf(key),
      })
      .execute();
    return { ...info, key };
  }

  async list(): Promise<readonly ApiKeyInfo[]> {
    const rows = await this.#database
      .selectFrom("api_keys")
      .select(["id", "name", "prefix", "created_at_ms"])
      .orderBy("created_at_ms")
      .execute();
    return rows.map(({ id, name, prefix, created_at_ms }) => ({
      id,
      name,
      prefix,
      createdAtMs: created_at_ms,
    }));
  }

  /** The look-up is by hash, so its time says nothing about a key. */
  async isValid(key: string): Promise<boolean> {
    if (!keyPattern.test(key)) return false;
    const row = await this.#database
      .selectFrom("api_keys")
      .select("id")
      .where("key_sha256", "=", hashOf(key))
      .executeTakeFirst();
    return row !== undefined;
  }
}

function hashOf(key: string): string {
  return createHash("sha256")
    .update(Buffer.from(key.slice("e2b_".length), "hex"))
    .digest("hex");
}
