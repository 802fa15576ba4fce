/** The snapshots that a user asked for, by id and by name. */
import { TorporError } from "@torpor/std";
import { templateIdPattern, templateNamePattern } from "@torpor/storage";
import type { HostContext } from "./host-context.ts";
import type { SnapshotRecord } from "./records/snapshot-records.ts";
import { type Reference, defaultTag } from "./template-tags.ts";

/** What they are kept in, and what else has names. */
type SnapshotsContext = Pick<HostContext, "snapshotRecords" | "tags" | "templates"> & {
  readonly store: Pick<HostContext["store"], "keep">;
};

export class Snapshots {
  readonly #host: SnapshotsContext;
  /** What the database has, changed right after it: read again, it could fail to be read. */
  #records: readonly SnapshotRecord[];
  /** Keep each of them, by id. */
  readonly #holds = new Map<string, Disposable>();

  private constructor(host: SnapshotsContext, records: readonly SnapshotRecord[]) {
    this.#host = host;
    this.#records = records;
    for (const { id } of records) this.#hold(id);
  }

  static async open(host: SnapshotsContext): Promise<Snapshots> {
    return new Snapshots(host, await host.snapshotRecords.all());
  }

  all(): readonly SnapshotRecord[] {
    return this.#records;
  }

  ids(): readonly string[] {
    return this.#records.map(({ id }) => id);
  }

  /** @throws template.missing for a tag that does not exist */
  find(reference: string): SnapshotRecord | undefined {
    const wanted = this.#host.tags.resolve(reference);
    return (
      this.#records.find(({ name }) => name === wanted) ??
      this.#records.find(({ id }) => id === wanted)
    );
  }

  /** @throws template.missing */
  get(reference: string): SnapshotRecord {
    const found = this.find(reference);
    if (found !== undefined) return found;
    throw new TorporError("template.missing", `there is no snapshot "${reference}"`, {
      advice: "List them with `torpor snapshot ls`.",
    });
  }

  /** @throws argument.invalid for what is no name, looks like an id, or is a template's */
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
   * Adds one without spares, and its name or tag, both or neither. A name it takes from another leaves
   * that one to be found by its id.
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

  async setPool(id: string, pool: number): Promise<void> {
    await this.#host.snapshotRecords.setPool(id, pool);
    this.#records = this.#records.map((one) => (one.id === id ? { ...one, pool } : one));
  }

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
