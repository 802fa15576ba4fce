/**
 * The daemon is killed with SIGKILL, while sandboxes run and at each step of each verb. VMs go on
 * running. The next daemon finds every sandbox either as it was before or as was asked, with
 * everything in it, and no VM, file or folder that belongs to nobody.
 *
 * A daemon that kills itself at a step differs from the real one in nothing else; it is the next
 * daemon's predecessor and its successor's at once, so each step costs one start.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { claimStepNames, spareStepNames } from "@torpor/host";
import { Deadline } from "@torpor/std";
import {
  type DeathPoint,
  Failpoints,
  type Leftovers,
  StateFolder,
  TestSandbox,
  Witness,
  assertNothingLeft,
  failsWith,
  lookAround,
  spawnTestDaemon,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

/** A chain that became so long is folded. */
const savesUntilFold = 5;

interface Points {
  readonly create: readonly DeathPoint[];
  readonly pause: readonly DeathPoint[];
  readonly resume: readonly DeathPoint[];
  readonly remove: readonly DeathPoint[];
  readonly snapshot: readonly DeathPoint[];
  readonly fold: readonly DeathPoint[];
}

/** Before each step and after the last: what lies between two steps is nothing at all. */
async function learnPoints(): Promise<Points> {
  const failpoints = new Failpoints();
  await using daemon = await startTestDaemon({ failpoint: failpoints.failpoint });
  const made: TestSandbox[] = [];
  const record = async (work: () => Promise<unknown>): Promise<readonly DeathPoint[]> => {
    const points = await failpoints.record(work);
    return points.filter(
      (point, index) => point.moment === "before" || index === points.length - 1,
    );
  };
  const create = await record(async () => made.push(await daemon.create()));
  const [sandbox] = made;
  assert.ok(sandbox !== undefined);
  const pause = await record(() => sandbox.pause());
  const resume = await record(() => sandbox.resume());
  const snapshot = await record(() => sandbox.snapshot());
  const isOfSnapshot = new Set(snapshot.map(({ step }) => step));
  const saved = await failpoints.record(async () => {
    for (let count = 0; count < savesUntilFold; count += 1) await sandbox.snapshot();
    await daemon.idle();
  });
  return {
    ...{ create, pause, resume, snapshot },
    fold: saved.filter(({ step }) => !isOfSnapshot.has(step)),
    remove: await record(() => sandbox.remove()),
  };
}

/** Files that no state of a sandbox accounts for. */
async function strayFiles(state: StateFolder, id: string): Promise<readonly string[]> {
  const files = [...(await state.filesOf(id)), ...(await state.layers())];
  return files.filter((name) => name.includes(".staged"));
}

test("the daemon may be killed at any moment", async (t) => {
  const points = await learnPoints();
  await using state = await StateFolder.make();
  let sandboxId = "";
  let witness: Witness | undefined;
  /** Around the state folder while no daemon runs. */
  const withoutVm = lookAround(state);
  let withVm: Leftovers | undefined;

  /** Asks a daemon that will die in the middle of it, and waits for its death. */
  const dieDuring = async (
    point: DeathPoint,
    ask: (sandbox: TestSandbox) => Promise<unknown>,
  ): Promise<void> => {
    await using daemon = await spawnTestDaemon(state, point);
    const asked = ask(await TestSandbox.find(daemon.api, sandboxId));
    await assert.rejects(asked, /ECONNRESET|ECONNREFUSED|socket hang up/);
    await daemon.ended();
  };

  const whatIsThere = async (): Promise<object> => ({
    sandboxes: await state.sandboxIds(),
    vms: (await state.vms()).map(({ pid }) => pid),
    layers: await state.layers(),
  });

  /** What the next daemon makes of it. */
  const settle = async (
    check: (sandbox: TestSandbox, stateName: string) => Promise<void>,
  ): Promise<void> => {
    {
      await using daemon = await startTestDaemon({ state });
      const sandbox = await TestSandbox.find(daemon.api, sandboxId);
      // What the dead one left is collected in the background.
      await daemon.idle();
      await check(sandbox, (await sandbox.info()).state);
      await daemon.idle();
    }
    const [vm, ...others] = await state.vms();
    assert.deepEqual(others, []);
    if (vm !== undefined) withVm ??= lookAround(state);
    await assertNothingLeft(state, (vm === undefined ? undefined : withVm) ?? withoutVm);
  };

  await t.test("VMs outlive a daemon that is killed, and the next one adopts them", async () => {
    let pid: number | null = null;
    {
      await using daemon = await spawnTestDaemon(state);
      const sandbox = await TestSandbox.create(daemon.api);
      sandboxId = sandbox.id;
      witness = await Witness.start(sandbox);
      pid = (await sandbox.info()).pid;
      await daemon.kill();
    }
    assert.ok(pid !== null && existsSync(`/proc/${pid}`), "the VM runs on");
    {
      await using daemon = await spawnTestDaemon(state);
      const sandbox = await TestSandbox.find(daemon.api, sandboxId);
      assert.deepEqual(
        { ...(await sandbox.info()), reason: null },
        { ...(await sandbox.info()), state: "running", pid },
      );
      await witness.confirm(sandbox);
      assert.equal(await sandbox.shell("echo it runs commands"), "it runs commands");
      await sandbox.pause();
      await sandbox.resume();
      await witness.confirm(sandbox);
      await daemon.stop();
    }
  });

  await t.test("a VM that ended while no daemon ran has failed, and can go back", async () => {
    for (const vm of await state.vms()) await vm.end(Deadline.after(10_000, "ending the VM"));
    await settle(async (sandbox, now) => {
      assert.equal(now, "failed");
      assert.match((await sandbox.info()).reason ?? "", /is gone/);
      await sandbox.resume();
      await witness?.confirm(sandbox);
    });
  });

  await t.test("pause", async (on) => {
    for (const point of points.pause) {
      await on.test(`killed ${point.moment} "${point.step}"`, async () => {
        await dieDuring(point, (sandbox) => sandbox.pause());
        await settle(async (sandbox, now) => {
          assert.ok(now === "running" || now === "paused", now);
          assert.equal((await state.vms()).length, now === "running" ? 1 : 0);
          assert.deepEqual(await strayFiles(state, sandboxId), []);
          if (now === "paused") await sandbox.resume();
          await witness?.confirm(sandbox);
        });
      });
    }
  });

  await t.test("resume", async (on) => {
    await settle((sandbox) => sandbox.pause());
    const filesBefore = await state.filesOf(sandboxId);
    const layersBefore = await state.layers();
    for (const point of points.resume) {
      await on.test(`killed ${point.moment} "${point.step}"`, async () => {
        await dieDuring(point, (sandbox) => sandbox.resume());
        await settle(async (_sandbox, now) => {
          assert.equal(now, "paused");
          assert.deepEqual(await state.vms(), []);
          assert.deepEqual(await state.filesOf(sandboxId), filesBefore);
          assert.deepEqual(await state.layers(), layersBefore);
        });
      });
    }
    await settle(async (sandbox) => {
      await sandbox.resume();
      await witness?.confirm(sandbox);
    });
  });

  await t.test("snapshot", async (on) => {
    for (const point of points.snapshot) {
      await on.test(`killed ${point.moment} "${point.step}"`, async () => {
        await dieDuring(point, (sandbox) => sandbox.snapshot("half"));
        await settle(async (sandbox, now) => {
          assert.equal(now, "running");
          assert.equal((await state.vms()).length, 1);
          assert.deepEqual(await strayFiles(state, sandboxId), []);
          assert.equal((await sandbox.api.call("GET", "/snapshots")).text, "[]");
          await witness?.confirm(sandbox);
        });
      });
    }
  });

  await t.test("fold beneath a running VM", async (on) => {
    assert.ok(points.fold.length > 0);
    for (const point of points.fold) {
      await on.test(`killed ${point.moment} "${point.step}"`, async () => {
        await dieDuring(point, async (sandbox) => {
          for (;;) await sandbox.snapshot();
        });
        await using daemon = await startTestDaemon({ state });
        const sandbox = await TestSandbox.find(daemon.api, sandboxId);
        assert.equal((await sandbox.info()).state, "running");
        assert.equal((await state.vms()).length, 1);
        await witness?.confirm(sandbox);
        // The next save brings it to its end.
        await sandbox.snapshot();
        await daemon.idle();
        const { state: now, diskLayers } = daemon.live(sandbox).record;
        assert.deepEqual(now.kind === "running" && now.openDisks, diskLayers);
        await witness?.confirm(sandbox);
        const { sandboxes } = daemon;
        for (const { id } of sandboxes.snapshots.all()) await sandboxes.removeSnapshot(id);
        await daemon.idle();
      });
    }
  });

  await t.test("fork", async (on) => {
    // The child's part: the parent's is the snapshot's. Asleep it has none, also no step of the same name.
    await settle((sandbox) => sandbox.pause());
    const before = await whatIsThere();
    for (const point of points.create) {
      await on.test(`killed ${point.moment} "${point.step}"`, async () => {
        await dieDuring(point, (sandbox) => sandbox.fork());
        await settle(async (sandbox, now) => {
          assert.equal(now, "paused");
          assert.equal((await sandbox.api.list()).length, 1);
        });
        assert.deepEqual(await whatIsThere(), before);
      });
    }
    await settle(async (sandbox) => {
      await sandbox.resume();
      await witness?.confirm(sandbox);
    });
  });

  await t.test("create", async (on) => {
    const before = await whatIsThere();
    for (const point of points.create) {
      await on.test(`killed ${point.moment} "${point.step}"`, async () => {
        await dieDuring(point, (sandbox) => TestSandbox.create(sandbox.api));
        await settle(async (sandbox) => {
          assert.equal((await sandbox.api.list()).length, 1);
        });
        assert.deepEqual(await whatIsThere(), before);
      });
    }
    await settle(async (sandbox) => void (await witness?.confirm(sandbox)));
  });

  await t.test("remove", async (on) => {
    for (const point of points.remove) {
      await on.test(`killed ${point.moment} "${point.step}"`, async () => {
        await dieDuring(point, (sandbox) => sandbox.remove());
        {
          await using daemon = await startTestDaemon({ state });
          const gone = TestSandbox.find(daemon.api, sandboxId);
          await assert.rejects(gone, failsWith("sandbox.notFound"));
          await daemon.idle();
        }
        assert.deepEqual(await whatIsThere(), { sandboxes: [], vms: [], layers: [] });
        await assertNothingLeft(state, withoutVm);
        await using daemon = await startTestDaemon({ state });
        sandboxId = (await daemon.create()).id;
      });
    }
    await settle((sandbox) => sandbox.remove());
  });
});

/** A spare's own steps, and those of handing it out that no spare goes through before. */
const whileMaking = ["warm up", "hold vCPUs"];
const whileClaiming = ["network policy", "init"];

test("the daemon may be killed while it makes a spare, and while it hands one out", async (t) => {
  for (const step of whileMaking) assert.ok(spareStepNames.includes(step));
  for (const step of whileClaiming) assert.ok(claimStepNames.includes(step));
  await using state = await StateFolder.make();
  const before = lookAround(state);
  for (const step of [...whileMaking, ...whileClaiming]) {
    for (const moment of ["before", "after"] as const) {
      await t.test(`killed ${moment} "${step}"`, async () => {
        {
          const settings = { TORPOR_SPARES: "1" };
          await using daemon = await spawnTestDaemon(state, { moment, step }, settings);
          if (whileClaiming.includes(step)) {
            await waitUntil("a spare is ready", async () => {
              const { text } = await daemon.api.call("GET", "/torpor/daemon");
              return text.includes('"sparesReady":1') || undefined;
            });
            await assert.rejects(TestSandbox.create(daemon.api), /ECONNRESET|socket hang up/);
          }
          await daemon.ended();
        }
        {
          await using daemon = await startTestDaemon({ state });
          await daemon.idle();
          assert.deepEqual(await daemon.api.list(), []);
        }
        assert.deepEqual(
          [await state.vms(), await state.sandboxIds(), await state.layers()],
          [[], [], []],
        );
        await assertNothingLeft(state, before);
      });
    }
  }
});
