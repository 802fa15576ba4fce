/**
 * A client that hangs up in the middle of what it asked for changes nothing of it: what was begun is
 * finished, for whoever looks next.
 */
import assert from "node:assert/strict";
import { request } from "node:http";
import { test } from "node:test";
import type { Failpoint } from "@torpor/std";
import { TestSandbox, Witness, startTestDaemon, waitUntil } from "@torpor/testing";

test("a client that goes away from a VM's operation", async (t) => {
  let waitsAt = "";
  let reached = Promise.withResolvers<void>();
  let left = Promise.withResolvers<void>();
  const failpoint: Failpoint = async (step, moment) => {
    if (step !== waitsAt || moment !== "before") return;
    waitsAt = "";
    reached.resolve();
    await left.promise;
  };
  await using daemon = await startTestDaemon({ failpoint });
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);

  /** Asks, hangs up before `step`, and lets it go on once the daemon has had time to notice. */
  const leaveBefore = async (step: string, verb: string, body: object): Promise<void> => {
    reached = Promise.withResolvers();
    left = Promise.withResolvers();
    waitsAt = step;
    const { socketPath } = daemon.api;
    const path = `/sandboxes/${sandbox.id}/${verb}`;
    const headers = { "content-type": "application/json" };
    const asked = request({ socketPath, agent: false, method: "POST", path, headers });
    const failed = new Promise((resolve) => asked.once("error", resolve));
    asked.once("response", () => assert.fail("nobody waited for an answer"));
    asked.end(JSON.stringify(body));
    await reached.promise;
    asked.destroy(new Error("gone"));
    await failed;
    await daemon.api.list();
    left.resolve();
  };

  await t.test("a pause puts the sandbox to sleep all the same", async () => {
    await leaveBefore("save memory", "pause", {});
    await waitUntil("it is paused", async () => {
      return (await sandbox.info()).state === "paused" || undefined;
    });
    assert.deepEqual(await daemon.state.vms(), []);
    await sandbox.resume();
    await witness.confirm(sandbox);
  });

  await t.test("a fork makes the child all the same", async () => {
    await leaveBefore("save memory", "fork", { count: 1, timeoutMs: null });
    const child = await waitUntil("there is a child", async () => {
      const all = await daemon.api.list();
      return all.find(({ id, state }) => id !== sandbox.id && state === "running");
    });
    await witness.confirm(await TestSandbox.find(daemon.api, child.id));
    await witness.confirm(sandbox);
  });
});
