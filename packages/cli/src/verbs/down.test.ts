import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { FakeDaemon, runForTest, sandboxInfo } from "../fixtures.ts";

/** A daemon with a process of its own, which ends with it. */
async function startWithProcess(): Promise<{ daemon: FakeDaemon; child: ChildProcess }> {
  const daemon = await FakeDaemon.start();
  const child = spawn("sleep", ["1000"], { stdio: "ignore" });
  child.once("exit", () => void daemon[Symbol.asyncDispose]());
  const info = {
    pid: child.pid,
    version: "0",
    startedAtMs: 0,
    stateFolder: daemon.stateFolder,
    accelerator: "tcg",
    url: "",
    templates: [],
    sandboxCount: 0,
  };
  daemon.answer = ({ path }) =>
    path === "/torpor/daemon" ? { status: 200, body: info } : undefined;
  return { daemon, child };
}

test("down ends the daemon and names what runs on", async () => {
  const { daemon, child } = await startWithProcess();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" }), sandboxInfo({ id: "ibbb", pid: null })];
  const { exitCode, stdout } = await daemon.run(["down"]);
  assert.equal(exitCode, 0);
  assert.match(stdout, new RegExp(`^The daemon \\(process ${child.pid}\\) has ended.\n1 sandbox `));
  assert.match(stdout, /\n {2}iaaa\n$/);
});

test("down --pause puts to sleep what runs, and ends the daemon though one could not be", async () => {
  const { daemon } = await startWithProcess();
  daemon.sandboxes = ["iaaa", "ibbb", "iccc"].map((id) => sandboxInfo({ id }));
  const { answer } = daemon;
  const full = new TorporError("storage.noSpace", "the disk is full");
  daemon.answer = (request) =>
    request.path.endsWith("/ibbb/pause")
      ? { status: full.status, body: { ...full.toBody() } }
      : answer(request);
  const { exitCode, stdout, stderr } = await daemon.run(["down", "--pause"]);
  assert.equal(exitCode, 1);
  assert.match(stdout, /^iaaa paused\niccc paused\nThe daemon .* has ended\.\n1 sandbox runs on/);
  assert.match(stdout, /\n {2}ibbb\n$/);
  assert.match(stderr, /^error: the disk is full\n/);
});

test("down says as JSON what it paused and what runs on", async () => {
  const { daemon, child } = await startWithProcess();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" })];
  const { stdout } = await daemon.run(["down", "--pause", "--json"]);
  assert.deepEqual(JSON.parse(stdout), {
    ended: true,
    pid: child.pid,
    paused: ["iaaa"],
    runningSandboxes: 0,
    running: [],
  });
});

test("without a daemon there is nothing to end", async () => {
  const { stdout } = await runForTest(["down", "--pause"], "/nonexistent/torpor");
  assert.equal(stdout, "No daemon runs.\n");
});
