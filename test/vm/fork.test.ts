/**
 * Forks: new sandboxes that begin at an instant of another, which goes on, or sleeps on. Children have
 * all that the parent had and share nothing from there on; neither minds what becomes of the other.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import {
  Failpoints,
  type TestSandbox,
  Witness,
  failsWith,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

async function only(forked: ReturnType<TestSandbox["fork"]>): Promise<TestSandbox> {
  const { children, errors } = await forked;
  assert.deepEqual(errors, []);
  const [child] = children;
  assert.ok(child !== undefined);
  return child;
}

test("forks", async (t) => {
  const failpoints = new Failpoints();
  await using daemon = await startTestDaemon({ failpoint: failpoints.failpoint });
  const parent = await daemon.create();
  const witness = await Witness.start(parent);
  await parent.shell("echo of the parent > note && sync");

  await t.test("a child has what the parent had, and the parent goes on", async () => {
    const { pid } = daemon.run(parent).vm.handle;
    using stream = await parent.start(["sh", "-c", "while read line; do echo got $line; done"], {
      stdin: true,
    });
    const child = await only(parent.fork());
    assert.equal(daemon.run(parent).vm.handle.pid, pid, "the same VM");
    const { ticks } = await witness.confirm(parent);
    await waitUntil("the parent counts on", async () => {
      return (await Witness.ask(parent)).ticks > ticks || undefined;
    });
    await stream.write("one\n");
    assert.equal(await stream.readLine(), "got one", "the parent's streams go on");
    await witness.confirm(child);
    assert.equal(await child.shell("cat note"), "of the parent");
    assert.notEqual(child.accessToken, parent.accessToken);
    await child.remove();
  });

  await t.test("what one writes, no other sees", async () => {
    const { children } = await parent.fork(2);
    const family = [parent, ...children];
    for (const [index, one] of family.entries()) {
      await one.shell(`echo ${index} > mine && echo ${index} >> note && sync`);
    }
    for (const [index, one] of family.entries()) {
      assert.equal(await one.shell("cat mine"), String(index));
      assert.equal(await one.shell("cat note"), `of the parent\n${index}`);
    }
    await parent.shell("echo of the parent > note && sync");
    for (const child of children) await child.remove();
  });

  await t.test("a paused sandbox has children and sleeps on", async () => {
    await parent.pause();
    const child = await only(parent.fork());
    assert.equal((await parent.info()).state, "paused");
    assert.equal((await daemon.state.vms()).length, 1);
    await witness.confirm(child);
    await child.remove();
    await parent.resume();
    await witness.confirm(parent);
  });

  await t.test("a fork of a fork of a fork outlives them all", async () => {
    const child = await only(parent.fork());
    await child.shell("echo child >> note && sync");
    await child.pause();
    const grandchild = await only(child.fork());
    await child.remove();
    await grandchild.shell("echo grandchild >> note && sync");
    const last = await only(grandchild.fork());
    await grandchild.remove();
    await last.pause();
    await daemon.idle();
    await last.resume();
    assert.equal(await last.shell("cat note"), "of the parent\nchild\ngrandchild");
    await witness.confirm(last);
    await last.remove();
  });

  await t.test("a child that fails is told of, and the others are there", async () => {
    failpoints.failOnce("after", "init");
    const { children, errors } = await parent.fork(2);
    assert.equal(children.length, 1);
    assert.match(errors[0] ?? "", /failed on purpose/);
    assert.equal((await daemon.api.list()).length, 2);
    for (const child of children) await child.remove();
    await witness.confirm(parent);
  });

  await t.test("a wrong number of children is refused", async () => {
    for (const count of [0, 101, 1.5]) {
      const asked = daemon.api.call("POST", `/sandboxes/${parent.id}/fork`, { count });
      await assert.rejects(asked, failsWith("argument.invalid", "none"));
    }
  });

  await t.test("a VM that dies goes back to its last fork", async () => {
    await parent.shell("echo before > when && sync");
    const child = await only(parent.fork());
    await parent.shell("echo after > when && sync");
    process.kill(daemon.run(parent).vm.handle.pid, "SIGKILL");
    await waitUntil("the death is noticed", async () => {
      return (await parent.info()).state === "failed" || undefined;
    });
    await parent.resume();
    assert.equal(await parent.shell("cat when"), "before");
    await witness.confirm(parent);
    await child.remove();
  });

  await t.test("nothing is left when all are gone", async () => {
    await parent.remove();
    await daemon.idle();
    assert.deepEqual(await daemon.state.layers(), []);
  });
});
