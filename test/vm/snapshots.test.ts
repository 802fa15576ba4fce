/**
 * Named snapshots: sandboxes are made from them like from a template, with everything that ran. They
 * outlive the sandbox they were taken of, and a name moves on to the newest of that name.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  type TestDaemon,
  TestSandbox,
  Witness,
  failsWith,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

async function sparesReady({ api }: TestDaemon): Promise<number> {
  const { text } = await api.call("GET", "/torpor/daemon");
  return (JSON.parse(text) as { sparesReady: number }).sparesReady;
}

test("named snapshots", async (t) => {
  await using daemon = await startTestDaemon();
  const first = await daemon.create();
  const witness = await Witness.start(first);
  await first.shell("echo one > note && sync");

  await t.test("a sandbox is made from one by name and by id", async () => {
    const id = await first.snapshot("ready");
    await witness.confirm(first);
    for (const reference of ["ready", id]) {
      const made = await daemon.create(reference);
      await witness.confirm(made);
      assert.equal(await made.shell("cat note"), "one");
      await made.remove();
    }
  });

  await t.test("a name means the newest of that name", async () => {
    await first.shell("echo two > note && sync");
    await first.snapshot("ready");
    const made = await daemon.create("ready");
    assert.equal(await made.shell("cat note"), "two");
    await made.remove();
    const { text } = await daemon.api.call("GET", "/snapshots");
    const names = (JSON.parse(text) as { names: string[] }[]).map((one) => one.names);
    assert.deepEqual(names, [[], ["ready"]]);
  });

  await t.test("it outlives the sandbox it was taken of, and the daemon", async () => {
    await first.pause();
    await first.snapshot("asleep");
    await first.remove();
    await daemon.stop();
    await daemon.start();
    const made = await daemon.create("asleep");
    await witness.confirm(made);
    assert.equal(await made.shell("cat note"), "two");
    await made.pause();
    await made.resume();
    await witness.confirm(made);
    await made.remove();
  });

  await t.test("a pool of it is ready before anybody asks", async () => {
    await daemon.api.call("POST", "/torpor/snapshots/ready/pool", { count: 1 });
    await waitUntil("a spare is ready", async () => (await sparesReady(daemon)) === 1 || undefined);
    const [spare] = await daemon.state.vms();
    const made = await daemon.create("ready");
    assert.equal((await made.info()).pid, spare?.pid);
    await witness.confirm(made);
    assert.equal(await made.shell("echo $E2B_SANDBOX_ID"), made.id);
    await daemon.api.call("POST", "/torpor/snapshots/ready/pool", { count: 0 });
    await made.remove();
    await waitUntil("no spare is left", async () => {
      return (await daemon.state.vms()).length === 0 || undefined;
    });
  });

  await t.test("one that is removed is gone, and what was made from it stays", async () => {
    const made = await daemon.create("ready");
    await daemon.api.call("DELETE", "/templates/ready");
    await assert.rejects(daemon.create("ready"), failsWith("template.missing", "none"));
    await assert.rejects(
      daemon.api.call("DELETE", "/templates/ready"),
      failsWith("template.missing", "none"),
    );
    await made.pause();
    await made.resume();
    await witness.confirm(made);
  });

  await t.test("names that would be mistaken are refused", async () => {
    const [sandbox] = await daemon.api.list();
    const made = await TestSandbox.find(daemon.api, sandbox?.id ?? "");
    for (const name of ["base", "../up", "Upper", "a".repeat(20), "x".repeat(200)]) {
      await assert.rejects(made.snapshot(name), failsWith("argument.invalid", "none"));
    }
  });
});
