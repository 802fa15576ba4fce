import assert from "node:assert/strict";
import { test } from "node:test";
import { silentLogger } from "@torpor/std";
import type { VmHandle, VmProcess } from "@torpor/vmm";
import type { SandboxState } from "./lifecycle/state.ts";
import { endStrayVms } from "./strays.ts";

const handle: VmHandle = {
  pid: 4711,
  startTicks: 100,
  bootId: "this boot",
  runFolder: "/state/sandboxes/one/run/1",
  memoryPath: "/cache/memory.img",
  memoryMiB: 512,
};
const running: SandboxState = {
  kind: "running",
  vm: handle,
  network: { kind: "user", hostPort: 1 },
  openDisks: [],
};

/** Whether a VM that is found while a sandbox's record names `handle` is ended. */
async function isEnded(found: Partial<VmHandle>): Promise<boolean> {
  let ended = false;
  const end = (): Promise<void> => {
    ended = true;
    return Promise.resolve();
  };
  const stray: VmProcess = { ...handle, ...found, end };
  const driver = { processesBelow: () => Promise.resolve([stray]) };
  await endStrayVms({ stateFolder: "/state", driver, log: silentLogger }, [{ state: running }]);
  return ended;
}

test("a VM that a record names is not ended", async () => {
  assert.ok(!(await isEnded({})));
});

test("a VM that has the pid of a record's, and is not it, is ended", async () => {
  assert.ok(await isEnded({ startTicks: 101 }));
  assert.ok(await isEnded({ bootId: "another boot" }));
  assert.ok(await isEnded({ pid: 4712 }));
});
