/**
 * The record of each sandbox, which the daemon stores before it acts on it.
 *
 * The sandbox's single writer reads and writes a record whole, so that no two fields can disagree
 * after a crash.
 */
import type { Selectable } from "kysely";
import { TorporError } from "@torpor/std";
import type { Sealer } from "@torpor/storage";
import type { Lifetime } from "../lifecycle/lifetime.ts";
import type { SandboxState } from "../lifecycle/state.ts";
import type { NetworkRequest } from "../network-request.ts";
import type { Database, SandboxTable } from "./database.ts";
import { type SandboxSecrets, openSecrets, sealSecrets } from "./sandbox-secrets.ts";

/** Traffic may wake the sandbox, which then gets this timeout. */
export interface AutoResume {
  /** Null: no timeout. */
  readonly timeoutMs: number | null;
}

/** Everything that the daemon knows about a sandbox. Another daemon can continue from it. */
export interface SandboxRecord extends SandboxSecrets {
  readonly id: string;
  readonly templateId: string;
  readonly templateName: string;
  /** Generation of the newest VM run. Every start increments it, a failed one too. */
  readonly generation: number;
  /** The newest published snapshot: a resume continues from it, and the next pause builds on it. */
  readonly snapshotId: string | null;
  /** The snapshot before it, kept in case the newest is damaged. */
  readonly previousSnapshotId: string | null;
  readonly state: SandboxState;
  /** Ids of the disk layers of the present state, above the template's disk, oldest first. */
  readonly diskLayers: readonly string[];
  readonly lifetime: Lifetime;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  /** When the present or the last run began. */
  readonly startedAtMs: number;
  /** The caller's request for the sandbox's network; null: there was none. */
  readonly network: NetworkRequest | null;
  /** Null: only a request to resume it wakes it. */
  readonly autoResume: AutoResume | null;
}

/** Reads and writes the table of sandboxes, sealing their secrets. */
export class SandboxRecords {
  readonly #database: Database;
  readonly #sealer: Sealer;

  constructor(database: Database, sealer: Sealer) {
    this.#database = database;
    this.#sealer = sealer;
  }

  /**
   * Every record. Its secrets are opened when they are read, which throws `secrets.damaged`: there
   * are many records, and most are of sandboxes that sleep. The first record's are opened here, as
   * a check.
   * @throws secrets.locked, secrets.damaged for the first record
   */
  async all(): Promise<readonly SandboxRecord[]> {
    const rows = await this.#database.selectFrom("sandboxes").selectAll().execute();
    const [first] = rows;
    if (first !== undefined) openSecrets(this.#sealer, first.id, first.secrets);
    return rows.map((row) => fromRow(row, this.#sealer));
  }

  /** Inserts or replaces the record. @throws storage.failed; the stored record is then unchanged */
  async save(record: SandboxRecord): Promise<void> {
    const { id, ...rest } = toRow(record, this.#sealer);
    try {
      await this.#database
        .insertInto("sandboxes")
        .values({ id, ...rest })
        .onConflict((conflict) => conflict.column("id").doUpdateSet(rest))
        .execute();
    } catch (cause) {
      const why = cause instanceof Error ? cause.message : String(cause);
      throw new TorporError("storage.failed", `the record of ${id} cannot be written: ${why}`, {
        cause,
        effect: "none",
      });
    }
  }

  /** Deletes the record, if there is one. */
  async remove(id: string): Promise<void> {
    await this.#database.deleteFrom("sandboxes").where("id", "=", id).execute();
  }
}

function toRow(record: SandboxRecord, sealer: Sealer): SandboxTable {
  return {
    id: record.id,
    template_id: record.templateId,
    template_name: record.templateName,
    generation: record.generation,
    snapshot_id: record.snapshotId,
    previous_snapshot_id: record.previousSnapshotId,
    state: JSON.stringify(record.state),
    disk_layers: JSON.stringify(record.diskLayers),
    lifetime: JSON.stringify(record.lifetime),
    secrets: sealSecrets(sealer, record.id, record),
    metadata: JSON.stringify(record.metadata),
    created_at_ms: record.createdAtMs,
    started_at_ms: record.startedAtMs,
    network: record.network === null ? null : JSON.stringify(record.network),
    auto_resume: record.autoResume === null ? null : JSON.stringify(record.autoResume),
  };
}

/**
 * Parses without checks: the columns hold what `toRow` wrote, and only the daemon writes its
 * database.
 */
function fromRow(row: Selectable<SandboxTable>, sealer: Sealer): SandboxRecord {
  let opened: SandboxSecrets | undefined;
  const secrets = (): SandboxSecrets => (opened ??= openSecrets(sealer, row.id, row.secrets));
  return {
    id: row.id,
    templateId: row.template_id,
    templateName: row.template_name,
    generation: row.generation,
    snapshotId: row.snapshot_id,
    previousSnapshotId: row.previous_snapshot_id,
    state: JSON.parse(row.state) as SandboxState,
    diskLayers: JSON.parse(row.disk_layers) as string[],
    lifetime: JSON.parse(row.lifetime) as Lifetime,
    get hostKey() {
      return secrets().hostKey;
    },
    get accessToken() {
      return secrets().accessToken;
    },
    get envVars() {
      return secrets().envVars;
    },
    metadata: JSON.parse(row.metadata) as Record<string, string>,
    createdAtMs: row.created_at_ms,
    startedAtMs: row.started_at_ms,
    network: row.network === null ? null : (JSON.parse(row.network) as NetworkRequest),
    autoResume: row.auto_resume === null ? null : (JSON.parse(row.auto_resume) as AutoResume),
  };
}
