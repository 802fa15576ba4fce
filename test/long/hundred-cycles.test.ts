/**
 * A hundred sleeps of one sandbox, by every trigger there is: a call, the end of its timeout, idleness.
 * Memory and disk change before each one, some of it to zero, and are the same after it.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { jsonLogger } from "@torpor/std";
import { Ledger, type TestSandbox, Witness, startTestDaemon, waitUntil } from "@torpor/testing";

const cycleCount = 100;
/** LIMIT: of a chain, after folds have had their turn. */
const layersMax = 16;

type Trigger = "call" | "timeout" | "idle";
const triggers: readonly Trigger[] = ["call", "timeout", "idle"];

/** What the log says of a sandbox whose time is over: no state remembers why it sleeps. */
interface Over {
  readonly message: string;
  readonly rule?: string;
}

/** The rule that puts it to sleep; none for a call. */
const ruleOf = { call: [], timeout: ["timeout"], idle: ["idle timeout"] } as const;

async function sleepBy(trigger: Trigger, sandbox: TestSandbox): Promise<void> {
  if (trigger === "call") await sandbox.pause();
  if (trigger === "timeout") {
    await sandbox.api.call("POST", `/sandboxes/${sandbox.id}/timeout`, { timeout: 0 });
  }
  await waitUntil(`it is paused by ${trigger}`, async () => {
    return (await sandbox.info()).state === "paused" || undefined;
  });
}

test(`${cycleCount} cycles`, async (t) => {
  const rules: (string | undefined)[] = [];
  const log = jsonLogger((line) => {
    const { message, rule } = JSON.parse(line) as Over;
    if (message === "the time of a sandbox is over") rules.push(rule);
  });
  await using daemon = await startTestDaemon({ log });
  const sandbox = await daemon.create("base", { autoPause: true, idleTimeoutMs: 4_000 });
  const witness = await Witness.start(sandbox);
  const ledger = await Ledger.start(sandbox);
  for (let cycle = 0; cycle < cycleCount; cycle += 1) {
    const trigger = triggers[cycle % triggers.length] ?? "call";
    await t.test(`cycle ${cycle + 1}, by ${trigger}`, async () => {
      await ledger.change(sandbox);
      rules.length = 0;
      await sleepBy(trigger, sandbox);
      assert.deepEqual(rules, ruleOf[trigger], "what put it to sleep");
      const { snapshot } = await sandbox.info();
      assert.ok(snapshot !== null && snapshot.memoryLayers <= layersMax);
      assert.ok(snapshot.diskLayers <= layersMax);
      await sandbox.api.call("POST", `/v2/sandboxes/${sandbox.id}/connect`, { timeoutMs: null });
      await ledger.confirm(sandbox);
      await witness.confirm(sandbox);
    });
  }
  await t.test("nothing is left", async () => {
    await sandbox.remove();
    await daemon.idle();
    assert.deepEqual(await daemon.state.layers(), []);
  });
});
