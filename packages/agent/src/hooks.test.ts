import assert from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import {
  cancelRoute,
  parseInitResponse,
  parsePrepareResponse,
  prepareRoute,
} from "@torpor/protocol";
import {
  type TestAgent,
  makeTestCgroup,
  startScript,
  startTestAgent,
  testKey,
  untilGone,
} from "./fixtures.ts";
import { quiesceStepNames } from "./quiesce.ts";

const isRoot = process.geteuid?.() === 0;
const asRoot = { skip: isRoot ? false : "hooks run as root" };

async function addHook(
  agent: TestAgent,
  moment: "pre-snapshot" | "post-restore",
  name: string,
  script: string,
  mode = 0o755,
): Promise<void> {
  const folder = join(agent.folder, ".hooks", `${moment}.d`);
  await mkdir(folder, { recursive: true });
  await writeFile(join(folder, name), `#!/bin/sh\n${script}\n`, { mode });
}

/** A script that writes the variables it received on one line. */
function note(agent: TestAgent): string {
  const told = "$TORPOR_HOOK $TORPOR_REASON $TORPOR_SANDBOX_ID $TORPOR_GENERATION";
  return `echo "\${0##*/} ${told} $TORPOR_SUSPENDED_MS" >>${join(agent.folder, "notes")}`;
}

async function notes(agent: TestAgent): Promise<readonly string[]> {
  const text = await readFile(join(agent.folder, "notes"), "utf8").catch(() => "");
  return text.split("\n").slice(0, -1);
}

test("hooks are told of a pause and of a resume, in the order of their names", asRoot, async () => {
  await using agent = await startTestAgent();
  await addHook(agent, "pre-snapshot", "20-second", note(agent));
  await addHook(agent, "pre-snapshot", "10-first", note(agent));
  await addHook(agent, "pre-snapshot", "15-copy~", note(agent));
  await addHook(agent, "pre-snapshot", "16-plain", note(agent), 0o644);
  await mkdir(join(agent.folder, ".hooks", "pre-snapshot.d", "17-folder"));
  await addHook(agent, "post-restore", "only", note(agent));
  await agent.init({ generation: 2 });
  const prepared = parsePrepareResponse(await (await agent.host(prepareRoute)).json());
  assert.deepEqual(prepared.hooks, { run: 2, failed: 0 });
  const changes = { generation: 3, reason: "resume", suspendedMs: 4321 } as const;
  const woken = parseInitResponse(await (await agent.init(changes)).json());
  assert.deepEqual(woken.hooks, { run: 1, failed: 0 });
  assert.deepEqual(await notes(agent), [
    "only post-restore create sandbox 2 0",
    "10-first pre-snapshot pause sandbox 2 0",
    "20-second pre-snapshot pause sandbox 2 0",
    "only post-restore resume sandbox 3 4321",
  ]);
});

test("the source of a checkpoint is told that it goes on", asRoot, async () => {
  await using agent = await startTestAgent();
  await agent.init({ generation: 2 });
  await addHook(agent, "pre-snapshot", "a", note(agent));
  await addHook(agent, "post-restore", "b", note(agent));
  await agent.host(prepareRoute, testKey, { reason: "checkpoint" });
  await agent.host(cancelRoute);
  assert.deepEqual(await notes(agent), [
    "a pre-snapshot checkpoint sandbox 2 0",
    "b post-restore continue sandbox 2 0",
  ]);
  assert.deepEqual(await (await agent.host(cancelRoute)).json(), { canceled: false });
  assert.equal((await notes(agent)).length, 2, "a repeat tells nobody again");
});

test("what was closed for a prepare that failed at any step is opened again", asRoot, async () => {
  for (const step of quiesceStepNames) {
    let armed = true;
    const failpoint = (name: string, moment: "before" | "after"): void => {
      if (!armed || name !== step || moment !== "after") return;
      armed = false;
      throw new TypeError(`failure after ${step}`);
    };
    await using agent = await startTestAgent({ failpoint });
    await agent.init();
    await addHook(agent, "pre-snapshot", "a", note(agent));
    await addHook(agent, "post-restore", "b", note(agent));
    assert.equal((await agent.host(prepareRoute)).status, 500, step);
    const moments = (await notes(agent)).map((line) => line.split(" ").slice(1, 3).join(" "));
    assert.deepEqual(moments, ["pre-snapshot pause", "post-restore continue"], step);
  }
});

test(
  "hooks that fail, hang or flood are counted, ended and cut, and stop nothing",
  asRoot,
  async () => {
    const limits = { hookBudgetMs: 1_500, hooksBudgetMs: 2_500 };
    await using agent = await startTestAgent({ limits });
    await agent.init();
    const pids = join(agent.folder, "pids");
    await addHook(agent, "pre-snapshot", "1-fails", "echo out of order; exit 7");
    await addHook(agent, "pre-snapshot", "2-floods", "head -c 2000000 /dev/zero; echo the end");
    await addHook(agent, "pre-snapshot", "3-hangs", `echo $$ >>${pids}; sleep 100 & sleep 100`);
    await addHook(agent, "pre-snapshot", "4-hangs", `echo $$ >>${pids}; sleep 100`);
    await addHook(agent, "pre-snapshot", "5-is-late", note(agent));
    const startedMs = performance.now();
    const answer = parsePrepareResponse(await (await agent.host(prepareRoute)).json());
    const tookMs = performance.now() - startedMs;
    assert.deepEqual(answer.hooks, { run: 4, failed: 3 });
    assert.deepEqual(await notes(agent), []);
    assert.ok(tookMs >= limits.hooksBudgetMs - 10, `${tookMs} ms`);
    const hung = (await readFile(pids, "utf8")).trim().split("\n").map(Number);
    assert.equal(hung.length, 2);
    await Promise.all(hung.map(untilGone));
    const [failed, flooded, killed] = agent.logged.filter(({ hook }) => hook !== undefined);
    assert.deepEqual([failed?.status, failed?.output], ["exit status 7", "out of order\n"]);
    assert.equal(flooded?.output?.length, 8192, "the last of it");
    assert.ok(flooded.output.endsWith("the end\n"));
    assert.match(killed?.status ?? "", /killed/);
  },
);

test("a prepare waits for the hooks of the moment before it", asRoot, async () => {
  await using agent = await startTestAgent();
  await agent.init();
  await addHook(agent, "pre-snapshot", "a", note(agent));
  await addHook(agent, "post-restore", "b", `sleep 0.3; ${note(agent)}`);
  await agent.host(prepareRoute);
  const canceled = agent.host(cancelRoute);
  // The guest is awake as soon as it can be, and the hooks are still at it.
  while ((await fetch(`${agent.url}/envs`)).status === 503) await nextTurn();
  assert.equal((await agent.host(prepareRoute)).status, 200);
  assert.equal((await canceled).status, 200);
  const order = (await notes(agent)).map((line) => line[0]);
  assert.deepEqual(order, ["a", "b", "a"]);
});

test("a hook that leaves a daemon behind ends when it ends", asRoot, async () => {
  await using agent = await startTestAgent();
  await agent.init();
  await addHook(agent, "post-restore", "starts", "sleep 30 & echo $!");
  await agent.host(prepareRoute);
  const woken = parseInitResponse(await (await agent.init({ generation: 2 })).json());
  assert.deepEqual(woken.hooks, { run: 1, failed: 0 });
  const { output } = agent.logged.find(({ hook }) => hook !== undefined) ?? {};
  process.kill(Number(output), "SIGKILL");
});

test(
  "hooks run among user processes, beside them and never while they stand still",
  asRoot,
  async (t) => {
    await using cgroup = await makeTestCgroup();
    if (cgroup === undefined) {
      t.skip("no writable cgroup v2");
      return;
    }
    await using agent = await startTestAgent({ userCgroup: cgroup.path });
    await agent.init();
    const served = join(agent.folder, "served");
    // A program that answers, as one that is asked to close something.
    const script = `mkfifo ${served}.in ${served}.out; while :; do read x <${served}.in; echo $x >${served}.out; done`;
    const events = startScript(agent, script);
    const pid = await events.pid();
    const ask = `cat /proc/self/cgroup; echo "$TORPOR_REASON" >${served}.in; cat ${served}.out`;
    await addHook(agent, "pre-snapshot", "a", `while [ ! -p ${served}.out ]; do :; done; ${ask}`);
    await addHook(agent, "post-restore", "b", ask);
    const prepared = parsePrepareResponse(await (await agent.host(prepareRoute)).json());
    assert.deepEqual(prepared.hooks, { run: 1, failed: 0 });
    const woken = parseInitResponse(await (await agent.init({ generation: 2 })).json());
    assert.deepEqual(woken.hooks, { run: 1, failed: 0 });
    const outputs = agent.logged.flatMap(({ output }) => output ?? []);
    assert.match(outputs[0] ?? "", /torpor-agent-test-[^]*\npause\n$/);
    assert.match(outputs[1] ?? "", /torpor-agent-test-[^]*\ncreate\n$/);
    process.kill(-pid, "SIGKILL");
    await untilGone(pid);
  },
);

test("hooks have the environment of root's commands", asRoot, async () => {
  await using agent = await startTestAgent();
  await writeFile(join(agent.folder, ".environment"), "PLACE=everywhere\n");
  await addHook(agent, "pre-snapshot", "one", `env >${join(agent.folder, "notes")}`);
  await agent.init({ envVars: { SHAPE: "round" } });
  await agent.host(prepareRoute);
  const variables = await notes(agent);
  const expected = ["PLACE=everywhere", "LANG=C.UTF-8", "SHAPE=round", "HOME=/root", "USER=root"];
  for (const variable of expected) assert.ok(variables.includes(variable), variable);
});
