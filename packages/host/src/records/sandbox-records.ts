/**
 * What the daemon knows of each sandbox, stored before it is acted on.
 *
 * A record is read and written whole by the sandbox's single writer, so that no two fields can
 * disagree after a crash.
 */
import type { Selectable } from "kysely";
import { TorporError } from "@torpor/std";
import type { Sealer } from "@torpor/storage";
import type { Lifetime } from "../lifecycle/lifetime.ts";
import type { SandboxState } from "../lifecycle/state.ts";
import type { NetworkRequest } from "../network-request.ts";
import type { Database, SandboxTable } from "./database.ts";
import { type SandboxSecrets, openSecrets, sealSecrets } from "./sandbox-secrets.ts";

/** That traffic may wake the sandbox, and how long it then gets. */
export interface AutoResume {
  /** Null: for ever. */
  readonly timeoutMs: number | null;
}

export interface SandboxRecord extends SandboxSecrets {
  readonly id: string;
  readonly templateId: string;
  readonly templateName: string;
  /** Of the newest VM run. Grows by one with every start, also with a failed one. */
  readonly generation: number;
  /** The newest published snapshot: what a resume goes on from, and the next pause builds upon. */
  readonly snapshotId: string | null;
  /** The one before it, kept for the day the newest is damaged. */
  readonly previousSnapshotId: string | null;
  readonly state: SandboxState;
  /** Disk layers of the present state above the template's disk, oldest first. */
  readonly diskLayers: readonly string[];
  readonly lifetime: Lifetime;
  readonly metadata: Readonly<Record<string, string>>;
  readonly createdAtMs: number;
  /** When the present or last run began. */
  readonly startedAtMs: number;
  /** What was asked of its network; null: nothing was. */
  readonly network: NetworkRequest | null;
  /** Null: only a request for it wakes it. */
  readonly autoResume: AutoResume | null;
}

export class SandboxRecords {
  readonly #database: Database;
  readonly #sealer: Sealer;

  constructor(database: Database, sealer: Sealer) {
    this.#database = database;
    this.#sealer = sealer;
  }

  /**
   * Secrets are opened as they are asked for, which throws `secrets.damaged`: there are many records, and
   * most are of sandboxes that sleep.
   * @throws secrets.locked, secrets.damaged for the first of them
   */
  async all(): Promise<readonly SandboxRecord[]> {
    const rows = await this.#database.selectFrom("sandboxes").selectAll().execute();
    const [first] = rows;
    if (first !== undefined) openSecrets(this.#sealer, first.id, first.secrets);
    return rows.map((row) => fromRow(row, this.#sealer));
  }

  /** @throws storage.failed; then it is as it was */
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

/** The columns hold what `toRow` wrote; the database is the daemon's own. */
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
