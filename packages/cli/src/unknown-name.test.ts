import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeDaemon, sandboxInfo } from "./fixtures.ts";

async function start(): Promise<FakeDaemon> {
  const daemon = await FakeDaemon.start();
  daemon.sandboxes = ["iabcdef0123", "ixyz4567890"].map((id) => sandboxInfo({ id }));
  const snapshot = { sandboxID: "iabcdef0123", createdAt: "2026-01-01T00:00:00Z", pool: 0 };
  daemon.snapshots = [
    { ...snapshot, snapshotID: "snap1", names: ["ready"] },
    { ...snapshot, snapshotID: "snap2", names: [] },
  ];
  return daemon;
}

test("a name that is none says what it is instead, or which is near", async () => {
  await using daemon = await start();
  const cases: readonly (readonly [readonly string[], string])[] = [
    [
      ["info", "iabcdfe0123"],
      "error: no sandbox has the id iabcdfe0123\n  next: Did you mean iabcdef0123?\n",
    ],
    [
      ["pause", "iqqqqqq"],
      "error: no sandbox has the id iqqqqqq\n  next: List them with `torpor ls`.\n",
    ],
    [
      ["rm", "ready"],
      "error: ready is a snapshot and no sandbox\n  next: `torpor create --template ready` makes a sandbox of it.\n",
    ],
    [["exec", "snap2", "--", "true"], "error: snap2 is a snapshot and no sandbox\n"],
    [["fork", "base"], "error: base is a template and no sandbox\n"],
    [
      ["create", "--template", "raedy"],
      "error: there is no template raedy\n  next: Did you mean ready?\n",
    ],
    [
      ["create", "--template", "bas"],
      "error: there is no template bas\n  next: Did you mean base?\n",
    ],
    [
      ["run", "--template", "iabcdef0123", "--", "true"],
      "error: iabcdef0123 is a sandbox and no snapshot\n  next: `torpor snapshot iabcdef0123 NAME` takes one of it.\n",
    ],
    [
      ["snapshot", "rm", "redy"],
      'error: there is no snapshot "redy"\n  next: Did you mean ready?\n',
    ],
    [["snapshot", "rm", "base"], "error: base is a template and no snapshot\n"],
    [["snapshot", "rm", "ixyz4567890"], "error: ixyz4567890 is a sandbox and no snapshot\n"],
    [
      ["snapshot", "rm", "something-else"],
      'error: there is no snapshot "something-else"\n  next: `torpor snapshot ls` lists the snapshots; `base` is the template.\n',
    ],
  ];
  for (const [argv, expected] of cases) {
    const { exitCode, stderr } = await daemon.run(argv);
    assert.equal(exitCode, 1, argv.join(" "));
    assert.ok(stderr.startsWith(expected), stderr);
  }
  assert.equal(daemon.sandboxes.length, 2);
});

test("an explanation that cannot be had does not take the place of the failure", async () => {
  await using daemon = await start();
  daemon.answer = ({ path }) => (path === "/snapshots" ? { status: 500, body: {} } : undefined);
  const { stderr } = await daemon.run(["info", "iqqqqqq"]);
  assert.match(stderr, /^error: no sandbox has the id iqqqqqq\n/);
});

test("the empty log of a paused sandbox says why", async () => {
  await using daemon = await start();
  daemon.sandboxes = [sandboxInfo({ id: "iabc", state: "paused", pid: null })];
  daemon.answer = ({ path }) =>
    path.endsWith("/console") ? { status: 200, body: { console: "", vmm: "" } } : undefined;
  const { exitCode, stdout, stderr } = await daemon.run(["logs", "iabc"]);
  assert.deepEqual([exitCode, stdout], [0, ""]);
  assert.match(stderr, /^iabc is paused: a console .* `torpor resume iabc` begins one\.\n$/);
});
