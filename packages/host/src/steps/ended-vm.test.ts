import assert from "node:assert/strict";
import { test } from "node:test";
import { Deadline, TorporError } from "@torpor/std";
import type { Vm, VmExit } from "@torpor/vmm";
import { whileVmLives } from "./ended-vm.ts";

const damage = new TorporError("snapshot.corrupt", "its pager failed: memory.pages is damaged");
const said = { consoleTail: "", vmmTail: "loading\nno such device\n" };

/** Runs a step on a VM that ends as `exited` says. */
async function runStep(exited: Promise<VmExit>, work: () => Promise<void>): Promise<void> {
  // The step uses no other part of a VM.
  const context = { vm: { exited } as Vm };
  await using undo = new AsyncDisposableStack();
  await whileVmLives(work)(context, Deadline.after(10_000, "the test"), undo);
}

const forever = async (): Promise<void> => await new Promise(() => undefined);

test("a step fails with its VM, for what ended that", async () => {
  const exited = Promise.resolve({ reason: damage, ...said });
  await assert.rejects(runStep(exited, forever), {
    code: "snapshot.corrupt",
    rawMessage: `the VM ended before its guest was ready: ${damage.rawMessage}`,
  });
});

test("a VM that ended by itself is told by its last line", async () => {
  await assert.rejects(runStep(Promise.resolve(said), forever), {
    code: "vmm.exited",
    rawMessage: "the VM ended before its guest was ready: no such device",
  });
});

test("the end of a VM that a step meets first waits for the reason", async () => {
  const { promise: exited, resolve } = Promise.withResolvers<VmExit>();
  const closed = new TorporError("vmm.exited", "the control socket was closed");
  const step = runStep(exited, async () => await Promise.reject(closed));
  resolve({ reason: damage, ...said });
  await assert.rejects(step, { code: "snapshot.corrupt" });
  const byItself = runStep(Promise.resolve(said), async () => await Promise.reject(closed));
  await assert.rejects(byItself, { code: "vmm.exited" });
});

test("what fails on a VM that lives stays what it is", async () => {
  const lives = new Promise<VmExit>(() => undefined);
  const refused = new TorporError("guest.refused", "not now");
  await assert.rejects(
    runStep(lives, async () => await Promise.reject(refused)),
    refused,
  );
  await runStep(lives, async () => await Promise.resolve());
});
