import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { isRunningProcess } from "./process-state.ts";

test("a process runs until it has ended", async (t) => {
  assert.equal(isRunningProcess(process.pid), true);
  const child = spawn("cat", { stdio: ["pipe", "ignore", "ignore"] });
  t.after(() => child.kill("SIGKILL"));
  const pid = child.pid ?? 0;
  assert.equal(isRunningProcess(pid), true);
  child.stdin.end();
  await once(child, "exit");
  assert.equal(isRunningProcess(pid), false);
});
