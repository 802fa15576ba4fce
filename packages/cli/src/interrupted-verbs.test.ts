/** Every verb that changes something, and its effects after an interrupt. */
import assert from "node:assert/strict";
import { constants } from "node:os";
import { test } from "node:test";
import { type CliResult, FakeDaemon, sandboxInfo } from "./fixtures.ts";
import { caughtSignals } from "./interrupt.ts";

const making: readonly (readonly string[])[] = [
  ["create"],
  ["create", "--json"],
  ["fork", "iaaa"],
  ["fork", "iaaa", "--count", "3", "--json"],
  ["run", "--", "true"],
  ["run", "--keep", "--", "true"],
];

async function start(): Promise<FakeDaemon> {
  const daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" }), sandboxInfo({ id: "ibbb" })];
  return daemon;
}

/** Runs a verb that receives `signal` while its request of this method to `path` is under way. */
async function interrupted(
  daemon: FakeDaemon,
  argv: readonly string[],
  signal: NodeJS.Signals,
  asked: RegExp,
): Promise<CliResult> {
  daemon.answer = ({ method, path }) => {
    if (asked.test(`${method} ${path}`)) process.emit(signal);
    return undefined;
  };
  const result = await daemon.run(argv);
  assert.equal(result.exitCode, 128 + constants.signals[signal], argv.join(" "));
  return result;
}

function ids({ sandboxes }: FakeDaemon): readonly string[] {
  return sandboxes.map(({ id }) => id);
}

test("a sandbox that is being made when its verb is interrupted is removed", async () => {
  for (const argv of making) {
    for (const signal of caughtSignals) {
      await using daemon = await start();
      const result = await interrupted(daemon, argv, signal, /^POST .*(sandboxes|fork)$/);
      assert.deepEqual(ids(daemon), ["iaaa", "ibbb"], `${argv.join(" ")} ${signal}`);
      assert.equal(result.stdout, "");
      assert.match(result.stderr, /^Interrupted: waiting for what is being made, to remove it\.$/m);
    }
  }
});

test("a sandbox whose id nobody can read is removed", async () => {
  for (const argv of making.slice(0, 4)) {
    await using daemon = await start();
    assert.equal((await daemon.run(argv, { readerIsGone: true })).exitCode, 141);
    assert.deepEqual(ids(daemon), ["iaaa", "ibbb"], argv.join(" "));
  }
});

test("a sandbox that cannot be shown is removed", async () => {
  await using daemon = await start();
  daemon.answer = ({ method, path }) =>
    method === "GET" && path.endsWith("/inew1") ? { status: 500, body: {} } : undefined;
  assert.equal((await daemon.run(["create", "--json"])).exitCode, 1);
  assert.deepEqual(ids(daemon), ["iaaa", "ibbb"]);
});

test("a sandbox that an interrupted verb cannot remove is told", async () => {
  await using daemon = await start();
  daemon.answer = ({ method }) => {
    if (method === "POST") process.emit("SIGINT");
    return method === "DELETE" ? { status: 500, body: {} } : undefined;
  };
  const { exitCode, stderr } = await daemon.run(["create"]);
  assert.equal(exitCode, 130);
  assert.match(stderr, /sandbox inew1 could not be removed[^]*torpor rm inew1/);
});

test("a snapshot that was taken is told, and stays", async () => {
  await using daemon = await start();
  const argv = ["snapshot", "iaaa", "ready"];
  const { stdout, stderr } = await interrupted(daemon, argv, "SIGINT", /^POST .*snapshots$/);
  assert.equal(stdout, "snap1\n");
  assert.match(stderr, /`torpor snapshot rm snap1` removes it/);
});

test("what the daemon was asked to change it changes, and no more is asked of it", async () => {
  const cases: readonly (readonly [readonly string[], RegExp, string])[] = [
    [["pause", "iaaa", "ibbb"], /^POST .*pause$/, "pausing iaaa"],
    [["resume", "iaaa", "ibbb"], /^POST .*connect$/, "resuming iaaa"],
    [["rm", "iaaa", "ibbb"], /^DELETE /, "removing iaaa"],
    [["snapshot", "rm", "s1", "s2"], /^DELETE /, "removing s1"],
    [["down", "--pause"], /^POST .*pause$/, "pausing iaaa"],
  ];
  for (const [argv, asked, doing] of cases) {
    for (const signal of caughtSignals) {
      await using daemon = await start();
      const { stderr } = await interrupted(daemon, argv, signal, asked);
      assert.match(stderr, new RegExp(`^Interrupted: the daemon goes on ${doing}\\.`, "m"));
      assert.equal(daemon.requests.filter((request) => asked.test(request)).length, 1);
    }
  }
});
