import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { Deadline } from "@torpor/std";
import { endProcess, isAlive, nameProcess } from "./process.ts";

/** A process that lives until it is killed. */
async function startSleeper() {
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  await once(child, "spawn");
  const name = nameProcess(child.pid ?? 0);
  assert.ok(name !== undefined);
  const ended = once(child, "exit");
  return {
    name,
    isRunning: () => child.exitCode === null && child.signalCode === null,
    ended,
    [Symbol.asyncDispose]: async () => {
      child.kill("SIGKILL");
      await ended;
    },
  };
}

test("a process is known by its name, and ended by it", async () => {
  await using sleeper = await startSleeper();
  assert.ok(isAlive(sleeper.name));
  await endProcess(sleeper.name, Deadline.after(10_000, "ending it"));
  await sleeper.ended;
  assert.ok(!isAlive(sleeper.name));
  assert.equal(nameProcess(sleeper.name.pid), undefined);
  await endProcess(sleeper.name, Deadline.after(10_000, "ending it once more"));
});

test("a stranger that got the pid, and one of another boot, are neither taken for it nor harmed", async () => {
  await using stranger = await startSleeper();
  const { name } = stranger;
  const reused = { ...name, startTicks: name.startTicks - 1 };
  const otherBoot = { ...name, bootId: "00000000-0000-0000-0000-000000000000" };
  for (const handle of [reused, otherBoot]) {
    assert.ok(!isAlive(handle));
    await endProcess(handle, Deadline.after(10_000, "ending what is over"));
    assert.ok(stranger.isRunning() && isAlive(name));
  }
});
