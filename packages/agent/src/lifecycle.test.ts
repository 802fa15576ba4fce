import assert from "node:assert/strict";
import { readFile, stat, writeFile } from "node:fs/promises";
import { connect } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  Signal,
  cancelRoute,
  entropyBytes,
  monotonicHeader,
  parseCancelResponse,
  parseInitResponse,
  parsePrepareResponse,
  prepareRoute,
} from "@torpor/protocol";
import {
  Events,
  type TestAgent,
  type TestAgentOptions,
  byPid,
  makeTestCgroup,
  startScript,
  startTestAgent,
  stdinInput,
  testKey,
  untilGone,
} from "./fixtures.ts";
import { quiesceStepNames } from "./quiesce.ts";
import { wakeStepNames } from "./wake.ts";

const isRoot = process.geteuid?.() === 0;

/** Whether the agent takes new work. */
async function takesWork(agent: TestAgent): Promise<boolean> {
  const response = await fetch(`${agent.url}/envs`);
  await response.arrayBuffer();
  if (response.status === 503) assert.equal(response.headers.get("connection"), "close");
  return response.status === 200;
}

test("the first init is free, later ones need the key, and every field takes effect", async () => {
  await using agent = await startTestAgent();
  assert.equal((await agent.host(prepareRoute)).status, 401);
  assert.equal((await agent.host(cancelRoute)).status, 401);
  const first = await agent.init({ generation: 3, hostKey: "one" }, "whatever");
  const answer = parseInitResponse(await first.json());
  assert.equal(answer.generation, 3);
  assert.match(answer.randomHash, /^[0-9a-f]{64}$/);
  assert.equal(answer.clockStepMs, 0);
  assert.equal(answer.socketsDestroyed, 3);
  assert.deepEqual(answer.hooks, { run: 0, failed: 0 });
  assert.deepEqual(agent.machine.calls, ["renewGenerators", "destroyTcpConnections"]);
  assert.equal((await agent.init({ generation: 4 }, "two")).status, 401);
  assert.equal((await agent.host(prepareRoute, "two")).status, 401);
  assert.equal((await agent.init({ generation: 4, hostKey: "two" }, "one")).status, 200);
  assert.equal(
    await readFile(join(agent.folder, ".markers", ".E2B_SANDBOX_ID"), "utf8"),
    "sandbox",
  );
});

test("init of an old generation is refused, and of the same one answered again", async () => {
  await using agent = await startTestAgent();
  const first = await agent.init({ generation: 5, hostKey: "new" }, "old");
  const body = await first.text();
  const again = await agent.init({ generation: 5, hostKey: "new" }, "new");
  assert.equal(await again.text(), body);
  const second = await agent.init({ generation: 6, hostKey: "newer" }, "new");
  // A host that lost the answer still sends the previous key.
  const repeat = await agent.init({ generation: 6, hostKey: "newer" }, "new");
  assert.equal(await repeat.text(), await second.text());
  assert.equal((await agent.init({ generation: 7 }, "new")).status, 401);
  const old = await agent.init({ generation: 5, hostKey: "new" }, "newer");
  assert.equal(old.status, 409);
  assert.equal(((await old.json()) as { error_code: string }).error_code, "sandbox.wrongState");
  const once = ["renewGenerators", "destroyTcpConnections"];
  assert.deepEqual(agent.machine.calls, [...once, ...once]);
});

test("a new sandbox becomes a machine of its own, and a resumed one stays the one it is", async () => {
  await using agent = await startTestAgent();
  const machine = {
    hostname: "torpor-one",
    machineId: "0123456789abcdef0123456789abcdef",
    bootId: "01234567-89ab-cdef-0123-456789abcdef",
  };
  assert.equal((await agent.init({ generation: 1, reason: "fork", machine })).status, 200);
  assert.deepEqual(agent.machine.calls, [
    "renewGenerators",
    "becomeMachine torpor-one",
    "renewSshHostKeys",
    "destroyTcpConnections",
  ]);
  agent.machine.calls.length = 0;
  assert.equal((await agent.init({ generation: 2, reason: "resume" })).status, 200);
  assert.deepEqual(agent.machine.calls, ["renewGenerators", "destroyTcpConnections"]);
});

test("connections that cannot be destroyed keep a fork from waking, and not a resume", async () => {
  await using agent = await startTestAgent();
  await agent.init({ generation: 1 });
  await agent.host(prepareRoute);
  agent.machine.failing = "destroyTcpConnections";
  assert.equal((await agent.init({ generation: 2, reason: "fork" })).status, 500);
  assert.equal(await takesWork(agent), false);
  assert.equal((await agent.init({ generation: 3, reason: "resume" })).status, 200);
  assert.equal(await takesWork(agent), true);
});

test("a machine that cannot have an identity of its own does not wake, one without SSH keys does", async () => {
  await using agent = await startTestAgent();
  await agent.init({ generation: 1 });
  await agent.host(prepareRoute);
  const machine = { hostname: "a", machineId: "0".repeat(32), bootId: "" };
  const fork = {
    reason: "fork",
    machine: { ...machine, bootId: "01234567-89ab-cdef-0123-456789abcdef" },
  } as const;
  agent.machine.failing = "becomeMachine";
  assert.equal((await agent.init({ ...fork, generation: 2 })).status, 500);
  assert.equal(await takesWork(agent), false);
  agent.machine.failing = "renewSshHostKeys";
  assert.equal((await agent.init({ ...fork, generation: 2 })).status, 200);
  assert.equal(await takesWork(agent), true);
});

test("each init rewrites the generation file in place with a token of its own, cancel does not", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, ".torpor", "generation");
  const first = Buffer.alloc(entropyBytes, 1).toString("base64");
  await agent.init({ generation: 9, entropy: first });
  const before = await readFile(path, "utf8");
  assert.match(before, /^9 [0-9a-f]{32}\n$/);
  const { ino, mode } = await stat(path);
  assert.equal(mode & 0o777, 0o644);
  assert.equal((await stat(join(agent.folder, ".torpor"))).mode & 0o777, 0o755);
  assert.equal((await stat(join(agent.folder, ".torpor", "identity.json"))).mode & 0o777, 0o600);
  await agent.host(prepareRoute);
  await agent.host(cancelRoute);
  assert.equal(await readFile(path, "utf8"), before);
  const second = Buffer.alloc(entropyBytes, 2).toString("base64");
  await agent.init({ generation: 10, entropy: second });
  const after = await readFile(path, "utf8");
  assert.match(after, /^10 [0-9a-f]{32}\n$/);
  assert.notEqual(after.split(" ")[1], before.split(" ")[1]);
  assert.equal((await stat(path)).ino, ino);
});

test("the source of a checkpoint keeps its garbage, which its users would wait for", async () => {
  await using agent = await startTestAgent();
  await agent.init();
  await agent.host(prepareRoute, testKey, { reason: "checkpoint" });
  assert.equal(agent.machine.calls.includes("shrinkHeap"), false);
  agent.machine.calls.length = 0;
  await agent.host(cancelRoute);
  assert.deepEqual(agent.machine.calls, [], "its connections are left alone");
});

test("init steps a clock that is off, and leaves one that is nearly right", async () => {
  await using agent = await startTestAgent();
  agent.machine.offMs = -3_600_000;
  const far = parseInitResponse(await (await agent.init({ generation: 1 })).json());
  assert.ok(Math.abs(far.clockStepMs - 3_600_000) < 5_000);
  assert.ok(agent.machine.calls.includes("setWallClock"));
});

test("a clock that was set late is set again", async () => {
  await using agent = await startTestAgent();
  agent.machine.offMs = -3_600_000;
  agent.machine.lateMs.push(400, 200);
  const { clockStepMs } = parseInitResponse(await (await agent.init({ generation: 1 })).json());
  assert.equal(agent.machine.calls.filter((name) => name === "setWallClock").length, 3);
  assert.ok(Math.abs(agent.machine.offMs) < 100, `left off by ${agent.machine.offMs}`);
  assert.ok(Math.abs(clockStepMs - 3_600_000) < 5_000, `stepped by ${clockStepMs}`);
});

test("the time that a request is on its way does not put the clock back", async () => {
  await using agent = await startTestAgent();
  const { headers } = await fetch(`${agent.url}/health`);
  const timestampMonoMs = Math.round(Number(headers.get(monotonicHeader)));
  assert.ok(timestampMonoMs > 0);
  const sentMs = Date.now();
  // As if it had been sent a minute ago, by both clocks.
  const sent = { timestampMs: sentMs - 60_000, timestampMonoMs: timestampMonoMs - 60_000 };
  agent.machine.offMs = -3_600_000;
  const { clockStepMs } = parseInitResponse(
    await (await agent.init({ generation: 1, ...sent })).json(),
  );
  assert.ok(Math.abs(clockStepMs - 3_600_000) < 5_000, `stepped by ${clockStepMs}`);
  const unset = await agent.init({ ...sent, generation: 2, timestampMonoMs: undefined });
  assert.ok(parseInitResponse(await unset.json()).clockStepMs < -50_000, "it is what counts");
});

test("bad init bodies are refused", async () => {
  await using agent = await startTestAgent();
  const post = async (body: string): Promise<number> =>
    (await fetch(`${agent.url}/init`, { method: "POST", body })).status;
  assert.equal(await post("{"), 400);
  assert.equal(await post("{}"), 400);
  assert.equal(await post("x".repeat(2 << 20)), 400);
  assert.equal((await fetch(`${agent.url}/init`)).status, 400);
});

test("prepare refuses new work until cancel, and health still answers", async () => {
  await using agent = await startTestAgent();
  await agent.init();
  const events = startScript(agent, "cat", { stdin: true });
  const target = byPid(await events.pid());
  const response = await agent.host(prepareRoute);
  assert.equal(response.headers.get("connection"), "close");
  const answer = parsePrepareResponse(await response.json());
  assert.equal(answer.generation, 1);
  assert.equal(answer.connectionsRecorded, 1);
  assert.equal(agent.machine.calls.at(-1), "shrinkHeap");
  assert.equal((await agent.host(prepareRoute)).status, 409);
  assert.equal(await takesWork(agent), false);
  assert.equal((await fetch(`${agent.url}/health`)).status, 204);
  const start = startScript(agent, "true").pid();
  await assert.rejects(start, (error) => ConnectError.from(error).code === Code.Unavailable);
  assert.deepEqual(parseCancelResponse(await (await agent.host(cancelRoute)).json()), {
    canceled: true,
  });
  assert.deepEqual(parseCancelResponse(await (await agent.host(cancelRoute)).json()), {
    canceled: false,
  });
  assert.equal(await takesWork(agent), true);
  // The stream that was open all the time continues.
  await agent.process.sendInput({ process: target, input: stdinInput("alive\n") });
  await events.until("alive\n");
  await agent.process.closeStdin({ process: target });
  assert.equal((await events.rest()).end?.exitCode, 0);
});

test("init after prepare destroys older connections, and processes live on", async () => {
  await using agent = await startTestAgent();
  await agent.init();
  const events = startScript(agent, "cat", { stdin: true });
  const target = byPid(await events.pid());
  const silent = connect(agent.port, "127.0.0.1");
  silent.on("error", () => undefined);
  const silentClosed = new Promise((resolve) => silent.once("close", resolve));
  await agent.host(prepareRoute);
  const answer = parseInitResponse(await (await agent.init({ generation: 2 })).json());
  assert.ok(answer.connectionsDestroyed >= 1);
  await assert.rejects(events.next());
  await silentClosed;
  assert.equal(await takesWork(agent), true);
  await agent.process.closeStdin({ process: target });
});

test("a repeated init does not end a newer prepare", async () => {
  await using agent = await startTestAgent();
  await agent.init({ generation: 2 });
  await agent.host(prepareRoute);
  assert.equal((await agent.init({ generation: 2 })).status, 200);
  assert.equal(await takesWork(agent), false);
  await agent.init({ generation: 3 });
  assert.equal(await takesWork(agent), true);
});

test("the deadline of a command stands still while at rest", async () => {
  await using agent = await startTestAgent();
  await agent.init();
  const events = startScript(agent, "cat", {
    stdin: true,
    headers: { "Connect-Timeout-Ms": "1000" },
  });
  const target = byPid(await events.pid());
  await agent.host(prepareRoute);
  await new Promise((resolve) => setTimeout(resolve, 1300));
  process.kill(target.selector.value, 0);
  await agent.host(cancelRoute);
  await assert.rejects(events.rest(), (error) => {
    return ConnectError.from(error).code === Code.DeadlineExceeded;
  });
});

/** A step of the named list fails, once, when `armed`. */
function failing(step: string): TestAgentOptions & { armed: boolean } {
  const options = {
    armed: false,
    failpoint: (name: string, moment: "before" | "after"): void => {
      if (!options.armed || name !== step || moment !== "after") return;
      options.armed = false;
      throw new TypeError(`failure after ${step}`);
    },
  };
  return options;
}

test("a prepare that fails at any step undoes everything, and can be repeated", async () => {
  for (const step of quiesceStepNames) {
    const options = failing(step);
    await using agent = await startTestAgent(options);
    await agent.init();
    options.armed = true;
    assert.equal((await agent.host(prepareRoute)).status, 500, step);
    assert.equal(await takesWork(agent), true, step);
    assert.equal((await agent.host(prepareRoute)).status, 200, step);
    assert.equal(await takesWork(agent), false, step);
  }
});

test("an init that fails at any step leaves the guest at rest, and works when repeated", async () => {
  for (const step of wakeStepNames.slice(0, -1)) {
    const options = failing(step);
    await using agent = await startTestAgent(options);
    await agent.init({ generation: 1 });
    await agent.host(prepareRoute);
    options.armed = true;
    // The host cannot know whether the agent has taken its new key, and sends the previous one.
    const changes = { generation: 2, hostKey: "new key" };
    assert.equal((await agent.init(changes)).status, 500, step);
    assert.equal(await takesWork(agent), false, step);
    const again = await agent.init(changes);
    assert.equal(again.status, 200, step);
    assert.equal(await takesWork(agent), true, step);
  }
});

test("user processes stand still from prepare to init or cancel", async (t) => {
  await using cgroup = await makeTestCgroup();
  if (cgroup === undefined) {
    t.skip("no writable cgroup v2");
    return;
  }
  await using agent = await startTestAgent({ userCgroup: cgroup.path });
  await agent.init();
  const out = join(agent.folder, "ticks");
  await writeFile(out, "");
  const script = "while :; do echo tick >>$OUT; echo tick; sleep 0.005; done";
  const events = startScript(agent, script, { envs: { OUT: out } });
  const pid = await events.pid();
  await events.until("tick\n");
  const ticks = async (): Promise<number> => (await readFile(out)).length;
  const frozen = async (): Promise<boolean> =>
    /^frozen 1$/m.test(await readFile(join(cgroup.path, "cgroup.events"), "utf8"));
  assert.match(await readFile(`/proc/${pid}/cgroup`, "utf8"), /torpor-agent-/);

  const answer = parsePrepareResponse(await (await agent.host(prepareRoute)).json());
  assert.ok(answer.processesFrozen >= 1);
  assert.equal(await frozen(), true);
  const before = await ticks();
  await new Promise((resolve) => setTimeout(resolve, 100));
  assert.equal(await ticks(), before);
  await agent.host(cancelRoute);
  assert.equal(await frozen(), false);
  await events.until("tick\n");

  await agent.host(prepareRoute);
  assert.equal(await frozen(), true);
  await agent.init({ generation: 2 });
  assert.equal(await frozen(), false);
  const after = await ticks();
  while ((await ticks()) === after) await new Promise((resolve) => setTimeout(resolve, 5));
  process.kill(-pid, "SIGKILL");
  await untilGone(pid);
});

test("a user who is not root joins the cgroup too", { skip: !isRoot }, async (t) => {
  await using cgroup = await makeTestCgroup();
  if (cgroup === undefined) {
    t.skip("no writable cgroup v2");
    return;
  }
  await using agent = await startTestAgent({ userCgroup: cgroup.path });
  await agent.init({ defaultUser: "daemon", defaultWorkdir: "/" });
  const script = "id -un; cat /proc/self/cgroup /proc/self/oom_score_adj; ls -l /proc/self/fd";
  const events = startScript(agent, script);
  await events.pid();
  const { stdout } = await events.rest();
  assert.match(stdout, /^daemon\n/);
  assert.match(stdout, /torpor-agent-/);
  assert.match(stdout, /\n100\ntotal/);
  assert.doesNotMatch(stdout, /cgroup\.procs/);
});

test("a key that is not the installed one is refused by every private route", async () => {
  await using agent = await startTestAgent();
  await agent.init();
  for (const route of [prepareRoute, cancelRoute]) {
    assert.equal((await agent.host(route, "wrong")).status, 401);
    assert.equal((await agent.host(route, `${testKey}x`)).status, 401);
  }
});

test("an agent that takes the place of another knows who it is, and takes no stranger for the host", async () => {
  await using first = await startTestAgent();
  await first.init({ generation: 4, accessToken: "token", sandboxId: "same" });
  await using second = await startTestAgent({ folder: first.folder });
  assert.equal((await second.init({ generation: 9 }, "another key")).status, 401);
  assert.equal((await second.init({ generation: 3 })).status, 409, "an older generation");
  const answer = await fetch(`${second.url}/envs`, { headers: { "x-access-token": "token" } });
  const environment = (await answer.json()) as Record<string, string>;
  assert.equal(environment["E2B_SANDBOX_ID"], "same");
  assert.equal((await fetch(`${second.url}/envs`)).status, 401);
});

test("an agent that takes the place of another makes up no end of a process it has not seen", async () => {
  await using first = await startTestAgent();
  await first.init();
  const events = startScript(first, "sleep 1000");
  const pid = await events.pid();
  await using second = await startTestAgent({ folder: first.folder });
  await assert.rejects(second.process.sendSignal({ process: byPid(pid), signal: Signal.SIGKILL }), {
    code: Code.NotFound,
    rawMessage: /started anew, and has not seen/,
  });
  const late = new Events(second.process.connect({ process: byPid(pid) }));
  await assert.rejects(late.pid(), { code: Code.NotFound, rawMessage: /has not seen/ });
  await first.process.sendSignal({ process: byPid(pid), signal: Signal.SIGKILL });
  await events.rest();
});
