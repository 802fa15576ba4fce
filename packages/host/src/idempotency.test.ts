/** The memory of keyed requests across the death of a daemon, over real SQLite. */
import assert from "node:assert/strict";
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { TorporError, silentLogger } from "@torpor/std";
import { KeyFile, Sealer, keyFileName } from "@torpor/storage";
import { Idempotency, type Product } from "./idempotency.ts";
import { type Database, openDatabase } from "./records/database.ts";
import { IdempotencyRecords, type KeyedRequest } from "./records/idempotency-records.ts";
import type { Decided } from "./sandboxes.ts";

const request: KeyedRequest = { caller: "", key: "a", requestSha256: "1" };
const hourMs = 60 * 60 * 1000;

/** The sandboxes, which are their ids only, and the database; both outlive the daemon. */
class World {
  readonly database: Database;
  readonly records: IdempotencyRecords;
  readonly there = new Set<string>();
  #nextId = 1;

  constructor(database: Database) {
    this.database = database;
    this.records = new IdempotencyRecords(database);
  }

  static async open(t: TestContext): Promise<World> {
    const folder = await mkdtempDisposable(join(tmpdir(), "torpor-idempotency-"));
    t.after(() => folder.remove());
    const keys = KeyFile.open(join(folder.path, keyFileName), silentLogger);
    const sealer = new Sealer(keys);
    const database = await openDatabase(":memory:", { sealer, stateFolder: folder.path });
    t.after(() => database.destroy());
    return new World(database);
  }

  /** Starts a daemon over the same database. */
  async startDaemon(): Promise<Idempotency> {
    const { records } = this;
    return await Idempotency.open({
      records,
      exists: (id) => this.there.has(id),
      log: silentLogger,
    });
  }

  /** Makes this many sandboxes. */
  readonly make =
    (count: number) =>
    async (decided?: Decided): Promise<Product> => {
      const made = Array.from({ length: count }, () => `i${this.#nextId++}`);
      await decided?.(made);
      for (const id of made) this.there.add(id);
      return { made, timings: [] };
    };

  /**
   * A request for `count` sandboxes makes `madeCount` of them and then never settles, as when the
   * daemon dies; the database has nothing more of it.
   */
  async dieDuring(count: number, madeCount: number): Promise<void> {
    const daemon = await this.startDaemon();
    const reached = Promise.withResolvers<void>();
    void daemon.once(request, async (decided) => {
      const ids = Array.from({ length: count }, () => `i${this.#nextId++}`);
      await decided?.(ids);
      for (const id of ids.slice(0, madeCount)) this.there.add(id);
      reached.resolve();
      return await new Promise<never>(() => undefined);
    });
    await reached.promise;
  }

  async rowCount(): Promise<number> {
    const rows = await this.database.selectFrom("idempotency_keys").selectAll().execute();
    return rows.length;
  }
}

test("of two at once, one joins the other, in what is made and in what fails", async (t) => {
  const world = await World.open(t);
  const daemon = await world.startDaemon();
  const fail = (): Promise<Product> => Promise.reject(new TorporError("host.busy", "too many"));
  const failed = await Promise.allSettled([
    daemon.once(request, fail),
    daemon.once(request, world.make(1)),
  ]);
  assert.deepEqual(
    failed.map(({ status }) => status),
    ["rejected", "rejected"],
  );
  const [one, other] = await Promise.all([
    daemon.once(request, world.make(2)),
    daemon.once(request, world.make(2)),
  ]);
  assert.deepEqual(one, other);
  await assert.rejects(daemon.once({ ...request, requestSha256: "2" }, world.make(1)), {
    code: "request.keyReused",
  });
  assert.equal(world.there.size, 2);
});

test("what was made before the daemon died is answered with, and not made again", async (t) => {
  const world = await World.open(t);
  await world.dieDuring(1, 1);
  const { made } = await (await world.startDaemon()).once(request, world.make(1));
  assert.deepEqual(made, ["i1"]);
  const next = await world.startDaemon();
  // Even if the sandbox was removed in the meantime.
  world.there.delete("i1");
  assert.deepEqual((await next.once(request, world.make(1))).made, ["i1"]);
  assert.deepEqual([...world.there], []);
});

test("what was not made before the daemon died is made by the repeat", async (t) => {
  const world = await World.open(t);
  await world.dieDuring(1, 0);
  const daemon = await world.startDaemon();
  assert.equal(await world.rowCount(), 0);
  assert.deepEqual((await daemon.once(request, world.make(1))).made, ["i2"]);
  assert.deepEqual([...world.there], ["i2"]);
});

test("of a fork that the daemon died in, those that are there are answered with", async (t) => {
  const world = await World.open(t);
  await world.dieDuring(3, 2);
  const daemon = await world.startDaemon();
  const [first, second, third] = (await daemon.once(request, world.make(3))).made;
  assert.deepEqual([first, second], ["i1", "i2"]);
  assert.ok(typeof third === "object");
  assert.deepEqual([third.error_code, third.effect], ["canceled", "none"]);
  assert.equal(world.there.size, 2);
});

test("a spare that could not be had is not what a record names", async (t) => {
  const world = await World.open(t);
  const daemon = await world.startDaemon();
  const product = await daemon.once(request, async (decided) => {
    await decided?.(["spare"]);
    return await world.make(1)(decided);
  });
  assert.deepEqual((await daemon.once(request, world.make(1))).made, product.made);
  assert.equal(world.there.size, 1);
});

test("what could not be noted is looked up", async (t) => {
  const world = await World.open(t);
  const daemon = await world.startDaemon();
  const { records } = world;
  const save = records.save.bind(records);
  records.save = async (record) => {
    if (record.made !== null) throw new Error("the disk is full");
    await save(record);
  };
  const { made } = await daemon.once(request, world.make(1));
  records.save = save;
  assert.deepEqual((await daemon.once(request, world.make(1))).made, made);
  assert.equal(world.there.size, 1);
});

test("keys are kept for a day and in bounded number", async (t) => {
  const world = await World.open(t);
  const daemon = await world.startDaemon();
  t.mock.timers.enable({ apis: ["Date"], now: Date.now() });
  await daemon.once(request, world.make(1));
  t.mock.timers.tick(23 * hourMs);
  await daemon.once(request, world.make(1));
  assert.equal(world.there.size, 1);
  t.mock.timers.tick(2 * hourMs);
  await daemon.once(request, world.make(1));
  assert.equal(world.there.size, 2);
  assert.equal(await world.rowCount(), 1);
  t.mock.timers.tick(25 * hourMs);
  await (await world.startDaemon()).once({ ...request, key: "other" }, world.make(1));
  assert.equal(await world.rowCount(), 1);
  for (const key of ["b", "c", "d"]) {
    t.mock.timers.tick(1);
    await daemon.once({ ...request, key }, world.make(1));
  }
  await world.records.prune(0, 2);
  assert.deepEqual(
    (await world.database.selectFrom("idempotency_keys").select("idempotency_key").execute())
      .map((row) => row.idempotency_key)
      .sort(),
    ["c", "d"],
  );
});
