/**
 * Every step of every verb fails, before and after it has done its work. Each time the sandbox is as
 * it was, or, after the point of no return, as was asked; it works; and nothing is left lying about.
 * The steps are learned from a run that succeeds, so a new one is tested from its first day.
 */
import assert from "node:assert/strict";
import { type TestContext, test } from "node:test";
import { claimStepNames, spareStepNames } from "@torpor/host";
import { TorporError } from "@torpor/std";
import {
  type FailingStep,
  Failpoints,
  type Leftovers,
  type TestDaemon,
  type TestSandbox,
  Witness,
  assertNothingLeft,
  failsWith,
  lookAround,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

/** LIMIT: a chain is folded before it is as long. */
const savesMax = 8;

interface Story {
  readonly daemon: TestDaemon;
  readonly failpoints: Failpoints;
  /** One sandbox lives through all of it. */
  readonly sandbox: TestSandbox;
  readonly witness: Witness;
}

async function failEach(
  t: TestContext,
  { failpoints }: Story,
  points: readonly FailingStep[],
  check: () => Promise<void>,
): Promise<void> {
  assert.ok(points.length > 0);
  for (const { moment, step } of points) {
    await t.test(`${moment} "${step}"`, async () => {
      failpoints.failOnce(moment, step);
      await check();
      assert.ok(!failpoints.isArmed, "the step was reached");
    });
  }
}

/** The error of an operation that must fail. */
async function failureOf(work: Promise<unknown>): Promise<TorporError> {
  try {
    await work;
  } catch (error) {
    assert.ok(failsWith("internal")(error) && TorporError.is(error));
    return error;
  }
  return assert.fail("it did not fail");
}

async function vmFolders({ state }: TestDaemon): Promise<readonly string[]> {
  return (await state.vms()).map(({ runFolder }) => runFolder).sort();
}

/** What is on disk of this sandbox, and whatever anybody stands upon. */
async function allFiles({ state }: TestDaemon, { id }: TestSandbox): Promise<readonly string[]> {
  return [...(await state.filesOf(id)), ...(await state.layers())];
}

/** All that an operation which came to nothing must not have changed. */
interface Everything {
  readonly sandboxIds: readonly string[];
  readonly listed: readonly string[];
  readonly state: string;
  readonly vms: readonly string[];
  readonly files: readonly string[];
  readonly leftovers: Leftovers;
}

async function everything({ daemon, sandbox }: Story): Promise<Everything> {
  await daemon.idle();
  return {
    sandboxIds: await daemon.state.sandboxIds(),
    listed: (await daemon.api.list()).map(({ id }) => id),
    state: (await sandbox.info()).state,
    vms: await vmFolders(daemon),
    files: await allFiles(daemon, sandbox),
    leftovers: lookAround(daemon.state),
  };
}

async function assertUnchanged(story: Story, before: Everything): Promise<void> {
  await assertNothingLeft(story.daemon.state, before.leftovers);
  const { leftovers } = before;
  assert.deepEqual({ ...(await everything(story)), leftovers }, before);
}

async function failCreate(
  t: TestContext,
  story: Story,
  points: readonly FailingStep[],
): Promise<void> {
  const { daemon } = story;
  const before = await everything(story);
  await failEach(t, story, points, async () => {
    await assert.rejects(daemon.create(), failsWith("internal", "none"));
    await assertUnchanged(story, before);
  });
}

async function failPause(
  t: TestContext,
  story: Story,
  points: readonly FailingStep[],
): Promise<void> {
  const { daemon, sandbox, witness } = story;
  await failEach(t, story, points, async () => {
    await daemon.idle();
    const filesBefore = await allFiles(daemon, sandbox);
    const { effect } = await failureOf(sandbox.pause());
    const { state } = await sandbox.info();
    if (effect === "none") {
      assert.equal(state, "running");
      assert.deepEqual(await allFiles(daemon, sandbox), filesBefore);
    } else {
      assert.equal(effect, "done");
      assert.equal(state, "paused");
      assert.deepEqual(await vmFolders(daemon), []);
      await sandbox.resume();
    }
    await witness.confirm(sandbox);
  });
  // Nothing that failed stands in the way of a pause that works.
  await sandbox.pause();
  assert.deepEqual(await vmFolders(daemon), []);
}

async function failResume(
  t: TestContext,
  story: Story,
  points: readonly FailingStep[],
): Promise<void> {
  const { daemon, sandbox, witness } = story;
  await daemon.idle();
  const filesBefore = await allFiles(daemon, sandbox);
  await failEach(t, story, points, async () => {
    assert.equal((await failureOf(sandbox.resume())).effect, "none");
    assert.equal((await sandbox.info()).state, "paused");
    assert.deepEqual(await vmFolders(daemon), []);
    assert.deepEqual(await allFiles(daemon, sandbox), filesBefore);
  });
  await sandbox.resume();
  await witness.confirm(sandbox);
  await sandbox.pause();
  await sandbox.resume();
  await witness.confirm(sandbox);
}

async function failSnapshot(
  t: TestContext,
  story: Story,
  points: readonly FailingStep[],
): Promise<void> {
  const { daemon, sandbox, witness } = story;
  await failEach(t, story, points, async () => {
    assert.equal((await failureOf(sandbox.snapshot("never"))).effect, "none");
    assert.equal((await sandbox.info()).state, "running");
    assert.equal((await daemon.api.call("GET", "/snapshots")).text, "[]");
    const staged = (await daemon.state.layers()).filter((name) => name.endsWith(".staged"));
    assert.deepEqual(staged, []);
    await witness.confirm(sandbox);
  });
  // Layers that were added for nothing are folded away.
  await sandbox.pause();
  await daemon.idle();
  const { snapshot } = await sandbox.info();
  assert.ok(snapshot !== null && snapshot.diskLayers < points.length / 2, "chains are short again");
  await sandbox.resume();
  await witness.confirm(sandbox);
}

/** Saves until the chain is long enough to be folded, and has been. */
async function saveUntil(
  { daemon, sandbox }: Pick<Story, "daemon" | "sandbox">,
  isDone: () => boolean,
): Promise<void> {
  for (let count = 0; count < savesMax; count += 1) {
    const id = await sandbox.snapshot();
    await daemon.api.call("DELETE", `/templates/${id}`);
    await daemon.idle();
    if (isDone()) return;
  }
  assert.fail(`nothing was folded in ${savesMax} saves`);
}

/** Whether the VM has just those layers open that the sandbox's disk is made of. */
function standsAsRecorded({ daemon, sandbox }: Story): boolean {
  const { state, diskLayers } = daemon.live(sandbox).record;
  return state.kind === "running" && String(state.openDisks) === String(diskLayers);
}

async function failFold(
  t: TestContext,
  story: Story,
  points: readonly FailingStep[],
): Promise<void> {
  const { daemon, failpoints, sandbox, witness } = story;
  const check = async (): Promise<void> => {
    const { pid } = daemon.run(sandbox).vm.handle;
    await saveUntil(story, () => !failpoints.isArmed);
    assert.equal(daemon.run(sandbox).vm.handle.pid, pid);
    await witness.confirm(sandbox);
  };
  await failEach(t, story, points, async () => {
    await check();
    assert.ok(!standsAsRecorded(story), "nobody knows how far it came");
    // With the next save it is tried again.
    let saves = 0;
    await saveUntil(story, () => {
      saves += 1;
      return standsAsRecorded(story);
    });
    assert.equal(saves, 1);
    await witness.confirm(sandbox);
  });
  for (const step of new Set(points.map((point) => point.step))) {
    await t.test(`"${step}" twice`, async () => {
      failpoints.repeatOnce(step);
      await check();
      assert.ok(standsAsRecorded(story));
    });
  }
  await sandbox.pause();
  await sandbox.resume();
  await witness.confirm(sandbox);
}

async function failFork(
  t: TestContext,
  story: Story,
  points: readonly FailingStep[],
): Promise<void> {
  const { sandbox, witness } = story;
  // Asleep it is its own checkpoint: what fails is the child's part, as the other is the snapshot's.
  await sandbox.pause();
  const before = await everything(story);
  await failEach(t, story, points, async () => {
    const { children, errors } = await sandbox.fork();
    assert.deepEqual(children, []);
    assert.match(errors[0] ?? "", /failed on purpose/);
    await assertUnchanged(story, before);
  });
  await sandbox.resume();
  await witness.confirm(sandbox);
}

async function failRemove(t: TestContext, story: Story): Promise<void> {
  const { daemon, failpoints } = story;
  const spare = await daemon.create();
  const points = await failpoints.record(() => spare.remove());
  const before = await everything(story);
  await failEach(t, story, points, async () => {
    const doomed = await daemon.create();
    await failureOf(doomed.remove());
    await doomed.remove();
    await assert.rejects(doomed.info(), failsWith("sandbox.notFound"));
    await assertUnchanged(story, before);
  });
  await repeatEach(t, story, points, {
    prepare: async () => await daemon.create(),
    ask: async (_, doomed) => {
      await doomed.remove();
      await assert.rejects(doomed.info(), failsWith("sandbox.notFound"));
      await assertUnchanged(story, before);
    },
  });
}

interface Repeated<T> {
  /** Before anything is looked at or armed. */
  readonly prepare: () => Promise<T>;
  readonly ask: (sandbox: TestSandbox, prepared: T) => Promise<unknown>;
  /** A checkpoint that fails may leave an empty disk layer, which changes nothing. */
  readonly mayAddLayer?: boolean;
}

/**
 * Runs each step of a verb twice. It works; or it fails and says what of it: nothing, and then nothing
 * is changed; or all, and then it is as was asked. Whatever became of it, the sandbox is brought back.
 */
async function repeatEach<T>(
  t: TestContext,
  story: Story,
  points: readonly FailingStep[],
  { prepare, ask, mayAddLayer = false }: Repeated<T>,
): Promise<void> {
  const { daemon, failpoints, sandbox, witness } = story;
  const asleep = (await sandbox.info()).state === "paused";
  for (const step of new Set(points.map((point) => point.step))) {
    await t.test(`"${step}" twice`, async () => {
      const vmCount = (await daemon.state.vms()).length;
      const sandboxIds = await daemon.state.sandboxIds();
      const prepared = await prepare();
      const before = await everything(story);
      failpoints.repeatOnce(step);
      const failure = await ask(sandbox, prepared).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      assert.ok(!failpoints.isArmed, "the step was reached");
      if (failure !== undefined) {
        if (!TorporError.is(failure)) throw failure;
        assert.match(failure.message, new RegExp(`failed at "${step}"`));
        assert.notEqual(failure.effect, "maybe");
        if (failure.effect === "none" && !mayAddLayer) await assertUnchanged(story, before);
      }
      const { state } = await sandbox.info();
      if (state === "paused") assert.deepEqual(await vmFolders(daemon), []);
      if (state === "paused" && !asleep) await sandbox.resume();
      if (state === "running") await witness.confirm(sandbox);
      if (state === "running" && asleep) await sandbox.pause();
      assert.equal((await daemon.state.vms()).length, vmCount);
      assert.deepEqual(await daemon.state.sandboxIds(), sandboxIds);
    });
  }
  if (asleep) await sandbox.resume();
  await witness.confirm(sandbox);
  if (asleep) await sandbox.pause();
}

test("any step may fail", async (t) => {
  const failpoints = new Failpoints();
  await using daemon = await startTestDaemon({ failpoint: failpoints.failpoint });
  const spare: TestSandbox[] = [];
  const createPoints = await failpoints.record(async () => spare.push(await daemon.create()));
  const [sandbox] = spare;
  assert.ok(sandbox !== undefined);
  const story: Story = { daemon, failpoints, sandbox, witness: await Witness.start(sandbox) };
  const pausePoints = await failpoints.record(() => sandbox.pause());
  const wakePoints = await failpoints.record(() => sandbox.resume());
  const snapshotPoints = await failpoints.record(() => sandbox.snapshot("sample"));
  await daemon.api.call("DELETE", "/templates/sample");
  const layersBefore = daemon.live(sandbox).record.diskLayers.length;
  const isFolded = (): boolean => daemon.live(sandbox).record.diskLayers.length < layersBefore;
  const isOfSnapshot = new Set(snapshotPoints.map(({ step }) => step));
  const savePoints = await failpoints.record(() => saveUntil(story, isFolded));
  const foldPoints = savePoints.filter(({ step }) => !isOfSnapshot.has(step));

  await t.test("create leaves nothing", async (on) => await failCreate(on, story, createPoints));
  await t.test("pause leaves the sandbox running, or asleep once that is safe", async (on) => {
    await failPause(on, story, pausePoints);
  });
  await t.test("resume leaves it asleep", async (on) => await failResume(on, story, wakePoints));
  await t.test("a snapshot that fails leaves the sandbox running", async (on) => {
    await failSnapshot(on, story, snapshotPoints);
  });
  await t.test("a fold that fails leaves the VM as it was, and is tried again", async (on) => {
    await failFold(on, story, foldPoints);
  });
  await t.test("a fork that fails leaves the parent as it was and no child", async (on) => {
    await failFork(on, story, createPoints);
  });
  const nothing = async (): Promise<void> => undefined;
  const twice = async (
    on: TestContext,
    repeated: readonly FailingStep[],
    ask: (one: TestSandbox) => Promise<unknown>,
  ): Promise<void> => await repeatEach(on, story, repeated, { prepare: nothing, ask });
  await t.test("each step of a create may run twice", async (on) => {
    const before = await everything(story);
    await twice(on, createPoints, async () => {
      const made = await daemon.create();
      assert.equal(await made.shell("echo works"), "works");
      await made.remove();
      await assertUnchanged(story, before);
    });
  });
  await t.test("each step of a pause may run twice", async (on) => {
    await twice(on, pausePoints, (one) => one.pause());
  });
  await t.test("each step of a snapshot may run twice", async (on) => {
    const ask = async (one: TestSandbox): Promise<void> => {
      const id = await one.snapshot();
      await daemon.api.call("DELETE", `/templates/${id}`);
    };
    await repeatEach(on, story, snapshotPoints, { prepare: nothing, ask, mayAddLayer: true });
  });
  await t.test("remove is finished by its repeat", async (on) => await failRemove(on, story));
  await sandbox.pause();
  await t.test("each step of a resume may run twice", async (on) => {
    await twice(on, wakePoints, (one) => one.resume());
  });
  await t.test("each step of a fork may run twice", async (on) => {
    const before = await everything(story);
    await twice(on, createPoints, async (one) => {
      const [child] = (await one.fork()).children;
      if (child !== undefined) {
        await story.witness.confirm(child);
        await child.remove();
      }
      await assertUnchanged(story, before);
    });
  });
  await sandbox.resume();
  await story.witness.confirm(sandbox);
});

/** Those that a spare alone goes through; the rest are a create's. */
const spareOnly = ["warm up", "hold vCPUs"];
const bothMoments = ["before", "after"] as const;

test("any step of a spare, and of handing it out, may fail", async (t) => {
  for (const step of spareOnly) assert.ok(spareStepNames.includes(step));
  const failpoints = new Failpoints();
  await using daemon = await startTestDaemon({
    failpoint: failpoints.failpoint,
    spareCount: 1,
  });
  const { state } = daemon;
  const untilReady = async (): Promise<void> => {
    await waitUntil(
      "a spare is ready",
      async () => daemon.sandboxes.sparesReady === 1 || undefined,
    );
    await daemon.idle();
  };
  await untilReady();
  const before = lookAround(state);
  const layerCount = (await state.layers()).length;
  const assertOneSpare = async (): Promise<void> => {
    await untilReady();
    await assertNothingLeft(state, before);
    assert.equal((await state.vms()).length, 1);
    assert.equal((await state.sandboxIds()).length, 1);
    assert.deepEqual(await daemon.api.list(), []);
    assert.equal((await state.layers()).length, layerCount);
  };
  const createAndUse = async (): Promise<TestSandbox> => {
    const sandbox = await daemon.create();
    assert.equal(await sandbox.shell("echo works"), "works");
    return sandbox;
  };
  /** The spare is handed out, and the next one meets what is armed. */
  const meetWhileMaking = async (): Promise<void> => {
    const first = await createAndUse();
    await waitUntil("the step was reached", async () => !failpoints.isArmed || undefined);
    const second = await createAndUse();
    for (const sandbox of [first, second]) await sandbox.remove();
    await assertOneSpare();
  };
  const meetWhileClaiming = async (): Promise<void> => {
    const sandbox = await createAndUse();
    assert.ok(!failpoints.isArmed, "the step was reached");
    await sandbox.remove();
    await assertOneSpare();
  };

  for (const [steps, meet] of [
    [spareOnly, meetWhileMaking],
    [claimStepNames, meetWhileClaiming],
  ] as const) {
    for (const step of steps) {
      for (const moment of bothMoments) {
        await t.test(`${moment} "${step}"`, async () => {
          failpoints.failOnce(moment, step);
          await meet();
        });
      }
      await t.test(`"${step}" twice`, async () => {
        failpoints.repeatOnce(step);
        await meet();
      });
    }
  }
});
