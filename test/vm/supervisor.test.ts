/**
 * A daemon that crashes by a bug of its own: the exception is thrown in a timer, where nobody catches it,
 * by code that is preloaded into the real program.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseJson } from "@torpor/std";
import {
  type DaemonApi,
  StateFolder,
  TestSandbox,
  Witness,
  spawnSupervisedDaemon,
  waitUntil,
} from "@torpor/testing";

const bug = 'process.on("SIGUSR2", () => setTimeout(() => { throw new Error("a bug") }))';
const preload = `--import=data:text/javascript,${encodeURIComponent(bug)}`;

async function daemonPid(api: DaemonApi): Promise<number> {
  const { text } = await api.call("GET", "/torpor/daemon");
  return Number((parseJson(text, "the daemon") as { pid: unknown }).pid);
}

test("a daemon that crashes is started again, adopts its VMs, and both end when they are told to", async () => {
  await using state = await StateFolder.make();
  await using supervised = await spawnSupervisedDaemon(state, { NODE_OPTIONS: preload });
  const { api } = supervised;
  const sandbox = await TestSandbox.create(api);
  const witness = await Witness.start(sandbox);
  const vmPids = async (): Promise<readonly number[]> => (await state.vms()).map((vm) => vm.pid);
  const vms = await vmPids();
  let pid = await daemonPid(api);
  for (const signal of ["SIGUSR2", "SIGKILL"] as const) {
    process.kill(pid, signal);
    const before = pid;
    pid = await waitUntil(`another daemon answers after ${signal}`, async () => {
      const found = await daemonPid(api).catch(() => before);
      return found === before ? undefined : found;
    });
    assert.equal((await sandbox.info()).state, "running");
    assert.deepEqual(await vmPids(), vms, "the VM is the same process");
    await witness.confirm(sandbox);
  }
  await sandbox.remove();
  process.kill(pid, "SIGTERM");
  await supervised.ended();
  await assert.rejects(daemonPid(api), "no daemon was started again");
});
