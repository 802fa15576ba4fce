/** The snapshots that users requested, by id and by name. */
import { TorporError } from "@torpor/std";
import { templateIdPattern, templateNamePattern } from "@torpor/storage";
import type { HostContext } from "./host-context.ts";
import type { SnapshotRecord } from "./records/snapshot-records.ts";
import { type Reference, defaultTag } from "./template-tags.ts";

/** The stores of the snapshots, and the other things that have names. */
type SnapshotsContext = Pick<HostContext, "snapshotRecords" | "tags" | "templates"> & {
  readonly store: Pick<HostContext["store"], "keep">;
};

/** All snapshots that users requested, in memory and in the database. */
export class Snapshots {
  readonly #host: SnapshotsContext;
  /**
   * A copy of the table, updated after each write instead of read again, because reading could
   * fail.
   */
  #records: readonly SnapshotRecord[];
  /** The store's hold on each snapshot, by id. */
  readonly #holds = new Map<string, Disposable>();

  private constructor(host: SnapshotsContext, records: readonly SnapshotRecord[]) {
    this.#host = host;
    this.#records = records;
    for (const { id } of records) this.#hold(id);
  }

  /** Reads the records from the database and keeps every snapshot in them. */
  static async open(host: SnapshotsContext): Promise<Snapshots> {
    return new Snapshots(host, await host.snapshotRecords.all());
  }

  /** Every record, oldest first. */
  all(): readonly SnapshotRecord[] {
    return this.#records;
  }

  /** Every id, oldest first. */
  ids(): readonly string[] {
    return this.#records.map(({ id }) => id);
  }

  /**
   * The snapshot with this name or id, or undefined.
   * @throws template.missing for a tag that does not exist
   */
  find(reference: string): SnapshotRecord | undefined {
    const wanted = this.#host.tags.resolve(reference);
    return (
      this.#records.find(({ name }) => name === wanted) ??
      this.#records.find(({ id }) => id === wanted)
    );
  }

  /** The snapshot with this name or id. @throws template.missing */
  get(reference: string): SnapshotRecord {
    const found = this.find(reference);
    if (found !== undefined) return found;
    throw new TorporError("template.missing", `there is no snapshot "${reference}"`, {
      advice: "List them with `torpor snapshot ls`.",
    });
  }

  /**
   * Asserts that a snapshot may have this name.
   * @throws argument.invalid for an invalid name, one that looks like an id, or a template's
   */
  async assertNameFree(name: string): Promise<void> {
    if (!templateNamePattern.test(name) || templateIdPattern.test(name)) {
      throw new TorporError(
        "argument.invalid",
        `"${name}" is no name for a snapshot: use a-z, 0-9, - and _, and not exactly 20 letters and digits`,
      );
    }
    if (!(await this.#host.templates.names()).includes(name)) return;
    throw new TorporError("argument.invalid", `"${name}" is the name of a template`);
  }

  /**
   * Adds a snapshot without spares, together with its name or tag: both are stored, or neither. If
   * another snapshot has the name, that one can then be found only by its id.
   */
  async add(taken: Omit<SnapshotRecord, "name" | "pool">, as?: Reference): Promise<void> {
    const { snapshotRecords, tags } = this.#host;
    const isTagged = as !== undefined && as.tag !== defaultTag;
    const record = { ...taken, name: isTagged ? null : (as?.name ?? null), pool: 0 };
    if (isTagged) {
      await tags.assign(as.name, as.tag, record.id, (transaction) =>
        snapshotRecords.insert(record, transaction),
      );
    } else await snapshotRecords.add(record);
    const others = this.#records.map((one) =>
      one.name !== null && one.name === record.name ? { ...one, name: null, pool: 0 } : one,
    );
    this.#records = [...others, record];
    this.#hold(record.id);
  }

  /** Stores how many spare sandboxes are kept ready from a snapshot. */
  async setPool(id: string, pool: number): Promise<void> {
    await this.#host.snapshotRecords.setPool(id, pool);
    this.#records = this.#records.map((one) => (one.id === id ? { ...one, pool } : one));
  }

  /** Removes a snapshot with its tags, and lets its files be garbage-collected. */
  async remove(id: string): Promise<void> {
    await this.#host.snapshotRecords.remove(id);
    await this.#host.tags.forget(id);
    this.#records = this.#records.filter((one) => one.id !== id);
    this.#holds.get(id)?.[Symbol.dispose]();
    this.#holds.delete(id);
  }

  #hold(id: string): void {
    this.#holds.set(id, this.#host.store.keep(id));
  }
}
