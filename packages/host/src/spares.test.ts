/** Which spares are made and removed; the tests on VMs cover what a spare is. */
import assert from "node:assert/strict";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import type { TemplateManifest } from "@torpor/storage";
import type { Outcome } from "./sandbox/command.ts";
import type { Sandbox } from "./sandbox/sandbox.ts";
import type { Source } from "./source.ts";
import { Spares } from "./spares.ts";

const done: Outcome = { changed: true, timings: [] };

/** A spare that is ready when the test resolves `prepared`. */
class FakeSpare {
  readonly prepared = Promise.withResolvers<Outcome>();
  isRemoved = false;

  prepareSpare(): Promise<Outcome> {
    return this.prepared.promise;
  }

  async remove(): Promise<Outcome> {
    this.isRemoved = true;
    return await Promise.resolve(done);
  }
}

function sourceOf(id: string, spareCount: number): Source {
  return { id, name: id, template: {} as TemplateManifest, snapshotId: id, spareCount };
}

/** Adds every spare that it makes to `made`. */
function startSpares(made: FakeSpare[]): Spares {
  return new Spares(() => {
    const spare = new FakeSpare();
    made.push(spare);
    return spare as unknown as Sandbox;
  }, 0);
}

async function whenMade(made: readonly FakeSpare[], count: number): Promise<void> {
  while (made.length < count) await sleep(1);
}

test("a source that is dropped has no spares, also none of those that were still to be made", async () => {
  const made: FakeSpare[] = [];
  const spares = startSpares(made);
  spares.refill(sourceOf("pool", 3));
  await whenMade(made, 1);
  made[0]?.prepared.resolve(done);
  await whenMade(made, 2);
  const dropped = spares.drop("pool");
  made[1]?.prepared.resolve(done);
  await dropped;
  spares.refill(sourceOf("other", 1));
  await whenMade(made, 3);
  made[2]?.prepared.resolve(done);
  while (spares.readyCount === 0) await sleep(1);
  assert.deepEqual(
    made.map(({ isRemoved }) => isRemoved),
    [true, true, false],
  );
  await spares.end();
  assert.equal(made[2]?.isRemoved, true);
});

test("a spare that cannot be made is no reason to keep whoever drops it waiting", async () => {
  const made: FakeSpare[] = [];
  const spares = startSpares(made);
  spares.refill(sourceOf("pool", 1));
  await whenMade(made, 1);
  const dropped = spares.drop("pool");
  made[0]?.prepared.reject(new Error("no"));
  await dropped;
  assert.equal(spares.readyCount, 0);
  await spares.end();
});
