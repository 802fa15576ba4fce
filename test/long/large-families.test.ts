/** Twenty children at once, each its own; and twenty generations, each a child of the one before. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Ledger, type TestSandbox, Witness, startTestDaemon } from "@torpor/testing";

const childCount = 20;
const generationCount = 20;

test(`${childCount} children at once`, async () => {
  await using daemon = await startTestDaemon();
  const parent = await daemon.create();
  const witness = await Witness.start(parent);
  const ledger = await Ledger.start(parent);
  await ledger.change(parent);
  const { children, errors } = await parent.fork(childCount);
  assert.deepEqual(errors, []);
  const drawn = await Promise.all(
    children.map((child) => child.shell("head -c 64 /dev/urandom | base64 -w0; echo; hostname")),
  );
  assert.equal(new Set(drawn.map((text) => text.split("\n")[0])).size, childCount);
  assert.deepEqual(
    drawn.map((text) => text.split("\n")[1]),
    children.map(({ id }) => id),
  );
  for (const [index, child] of children.entries()) {
    await ledger.confirm(child);
    await witness.confirm(child);
    await child.shell(`echo ${index} > mine && sync`);
  }
  await Promise.all(children.map((child) => child.pause()));
  await parent.remove();
  for (const [index, child] of children.entries()) {
    await child.resume();
    assert.equal(await child.shell("cat mine"), String(index));
    await ledger.confirm(child);
    await child.remove();
  }
  await daemon.idle();
  assert.deepEqual(await daemon.state.layers(), []);
});

test(`${generationCount} generations`, async () => {
  await using daemon = await startTestDaemon();
  let youngest: TestSandbox = await daemon.create();
  const witness = await Witness.start(youngest);
  const ledger = await Ledger.start(youngest);
  for (let generation = 0; generation < generationCount; generation += 1) {
    await ledger.change(youngest);
    if (generation % 2 === 1) await youngest.pause();
    const [child] = (await youngest.fork()).children;
    assert.ok(child !== undefined);
    await youngest.remove();
    youngest = child;
    await ledger.confirm(youngest);
    await witness.confirm(youngest);
  }
});
