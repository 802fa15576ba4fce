import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError, parseJson } from "@torpor/std";
import type { SandboxInfo } from "./daemon-answers.ts";
import { FakeDaemon, runForTest, sandboxInfo } from "./fixtures.ts";
import { wantsJson } from "./program.ts";

const nowhere = "/nonexistent/torpor";

async function start(...ids: readonly string[]): Promise<FakeDaemon> {
  const daemon = await FakeDaemon.start();
  daemon.sandboxes = ids.map((id) => sandboxInfo({ id }));
  return daemon;
}

test("help names every verb and gives examples", async () => {
  const { exitCode, stdout } = await runForTest(["--help"], nowhere);
  assert.equal(exitCode, 0);
  for (const verb of [
    ..."up down doctor run create exec ls info pause resume fork snapshot timeout rm".split(" "),
    ..."uninstall logs keys completion help".split(" "),
  ]) {
    assert.match(stdout, new RegExp(`^ {2}${verb} `, "m"));
  }
  assert.match(stdout, /Examples:/);
});

test("help of a verb is kept short and whole", async () => {
  const { stdout } = await runForTest(["pause", "--help"], nowhere);
  assert.equal(
    stdout,
    `Usage: torpor pause [options] <id...>

put sandboxes to sleep: memory and disk are kept, nothing runs

Arguments:
  id          sandboxes, by the first characters of their ids

Options:
  --timing    print how long each step took, to standard error
  --json      print what was done as JSON
  -h, --help  display help for command
`,
  );
});

test("help in words is the help of options", async () => {
  for (const words of [[], ["pause"], ["snapshot", "pool"]]) {
    const inWords = await runForTest(["help", ...words], nowhere);
    const byOption = await runForTest([...words, "--help"], nowhere);
    assert.deepEqual(inWords, byOption);
  }
});

test("a mistake in the command line exits with 2 and says where to look", async () => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["nope"], /unknown command 'nope'\n {2}next: See `torpor --help`/],
    [["ls", "--jsn"], /--jsn' \(Did you mean --json\?\)\n {2}next: See `torpor ls --help`/],
    [["info"], /missing required argument 'id'/],
    [["rm"], /there is no sandbox to remove/],
    [["rm", "--all", "iaaa"], /--all stands alone/],
    [["logs"], /neither a sandbox nor --daemon/],
    [["run"], /missing required argument 'command'/],
    [["run", "-e", "A", "--", "true"], /A is not set here/],
    [["exec", "iaaa"], /there is no command/],
    [["exec", "iaaa", "-t", "--", "ls"], /-t comes too late/],
    [["create", "-m", "x"], /--metadata x is not of the form KEY=VALUE/],
    [["create", "--timeout", "soon"], /"soon" is no duration/],
    [["create", "--on-timeout", "stop"], /Allowed choices are kill, pause/],
    [["timeout", "iaaa", "0"], /0 is no duration/],
    [["fork", "iaaa", "--count", "0"], /"0" is no whole number from 1 on/],
    [["snapshot"], /missing required argument 'id'/],
    [["snapshot", "pool", "x", "many"], /"many" is no whole number/],
    [["completion", "fish"], /no completion for fish/],
    [["completion"], /no shell is named/],
    [["help", "snapsht"], /there is no verb snapsht\n {2}next: Did you mean snapshot\?/],
    [["help", "snapshot", "pol"], /there is no verb pol\n/],
  ];
  for (const [argv, expected] of cases) {
    const { exitCode, stdout, stderr } = await runForTest(argv, nowhere);
    assert.match(stderr, expected);
    assert.equal(exitCode, 2, argv.join(" "));
    assert.equal(stdout, "");
  }
});

test("--json makes failures JSON too, but not that of a command in a sandbox", async () => {
  assert.equal(wantsJson(["ls", "--json"]), true);
  assert.equal(wantsJson(["run", "tool", "--json"]), false);
  assert.equal(wantsJson(["exec", "iaaa", "--", "tool", "--json"]), false);
  await using daemon = await start();
  const { exitCode, stderr } = await daemon.run(["info", "iaaa", "--json"]);
  assert.equal(exitCode, 1);
  assert.match(stderr, /^\{"code":404,.*"error_code":"sandbox.notFound".*\}\n$/);
});

test("run passes streams and exit code on and removes the sandbox", async () => {
  await using daemon = await start();
  const script = "cat; echo err >&2; exit 9";
  const argv = ["run", "-e", "A=1", "--", "sh", "-c", script];
  const result = await daemon.run(argv, { input: "in" });
  assert.deepEqual(result, { exitCode: 9, stdout: "in", stderr: "err\n" });
  assert.deepEqual(daemon.sandboxes, []);
});

test("run removes the sandbox when the command cannot start", async () => {
  await using daemon = await start();
  const { exitCode, stderr } = await daemon.run(["run", "no-such-command", "-x"]);
  assert.equal(exitCode, 127);
  assert.match(stderr, /^error: no-such-command was not found in the sandbox\n {2}next: /);
  assert.deepEqual(daemon.sandboxes, []);
});

test("run keeps the sandbox when asked to, and says which", async () => {
  await using daemon = await start();
  const { stderr } = await daemon.run(["run", "--keep", "--", "true"]);
  assert.match(stderr, /Sandbox inew1 is kept/);
  assert.equal(daemon.sandboxes.length, 1);
});

test("run tells when the sandbox could not be removed, and keeps the command's exit code", async () => {
  await using daemon = await start();
  daemon.answer = ({ method }) => (method === "DELETE" ? { status: 500, body: {} } : undefined);
  const { exitCode, stderr } = await daemon.run(["run", "--", "sh", "-c", "exit 3"]);
  assert.equal(exitCode, 3);
  assert.match(stderr, /sandbox inew1 could not be removed[^]*torpor rm inew1/);
});

test("Ctrl-C during run removes the sandbox and exits with 130", async () => {
  await using daemon = await start();
  daemon.guest.onStart = () => void process.emit("SIGINT");
  const { exitCode, stderr } = await daemon.run(["run", "--", "sleep", "1000"]);
  assert.equal(exitCode, 130);
  assert.equal(stderr, "");
  assert.deepEqual(daemon.sandboxes, []);
});

test("Ctrl-C during exec ends the command and leaves the sandbox", async () => {
  await using daemon = await start("iaaa");
  daemon.guest.onStart = () => void process.emit("SIGINT");
  const { exitCode } = await daemon.run(["exec", "iaaa", "--", "sleep", "1000"]);
  assert.equal(exitCode, 130);
  assert.equal(daemon.sandboxes.length, 1);
});

test("exec runs in the sandbox of a prefix; input only with -i", async () => {
  await using daemon = await start("iaaa1", "ibbb2");
  const argv = ["ibb", "--", "cat"];
  assert.deepEqual(await daemon.run(["exec", ...argv], { input: "x" }), {
    exitCode: 0,
    stdout: "",
    stderr: "",
  });
  assert.equal((await daemon.run(["exec", "-i", ...argv], { input: "x" })).stdout, "x");
});

test("exec in a paused sandbox says how to wake it", async () => {
  await using daemon = await start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa", state: "paused", pid: null })];
  const { exitCode, stderr } = await daemon.run(["exec", "iaaa", "--", "true"]);
  assert.equal(exitCode, 1);
  assert.match(stderr, /^error: sandbox iaaa is paused\n {2}next: .*`torpor resume iaaa`/);
});

test("exec in a sandbox that stands still says why and what to do, and does not wait", async () => {
  await using daemon = await FakeDaemon.start();
  const reason = "the host's disk is full or failed a write";
  daemon.sandboxes = [sandboxInfo({ id: "iaaa", state: "stalled", reason })];
  const { exitCode, stderr } = await daemon.run(["exec", "iaaa", "--", "true"]);
  assert.equal(exitCode, 1);
  assert.match(
    stderr,
    /^error: sandbox iaaa is stalled: the host's disk is full[^\n]*\n {2}next: Free space/,
  );
  const { stdout } = await daemon.run(["ls"]);
  assert.match(stdout, /iaaa +stalled/);
});

test("a sandbox that is paused meanwhile is told as that, not as a broken line", async () => {
  await using daemon = await start("iaaa");
  daemon.guest.onStart = () => {
    daemon.sandboxes = [sandboxInfo({ id: "iaaa", state: "paused", pid: null })];
    throw new Error("the line breaks");
  };
  const { exitCode, stderr } = await daemon.run(["exec", "iaaa", "--", "true"]);
  assert.equal(exitCode, 1);
  assert.match(stderr, /is paused\n {2}effect: it may have taken effect\n/);
});

test("create prints the id alone, and the steps to standard error", async () => {
  await using daemon = await start();
  const { stdout, stderr } = await daemon.run(["create", "-m", "a=b", "--timing"]);
  assert.equal(stdout, "inew1\n");
  assert.equal(stderr, "");
  const failed = await daemon.run(["create", "--template", "none"]);
  assert.equal(failed.exitCode, 1);
  assert.match(failed.stderr, /^error: there is no template none\n/);
});

test("ls prints a table, ids or JSON", async () => {
  await using daemon = await start("iaaa", "ibbb");
  assert.match((await daemon.run(["ls"])).stdout, /^ID +STATE +TEMPLATE/);
  assert.equal((await daemon.run(["ls", "-q"])).stdout, "iaaa\nibbb\n");
  assert.deepEqual(JSON.parse((await daemon.run(["ls", "--json"])).stdout), daemon.sandboxes);
});

test("pause and resume say what they changed; --timing shows the steps", async () => {
  await using daemon = await start("iaaa");
  const paused = await daemon.run(["pause", "--timing", "iaaa"]);
  assert.equal(paused.stdout, "iaaa paused\n");
  assert.match(paused.stderr, /save memory +1\.5 ms\n {2}total/);
  const again = await daemon.run(["pause", "iaaa"]);
  assert.deepEqual(again, { exitCode: 0, stdout: "iaaa was paused already\n", stderr: "" });
  assert.equal((await daemon.run(["resume", "iaaa"])).stdout, "iaaa running\n");
  assert.equal((await daemon.run(["resume", "iaaa"])).stdout, "iaaa was running already\n");
});

test("resume --previous says what is lost; --timeout is sent on", async () => {
  await using daemon = await start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa", state: "paused", pid: null })];
  const { stdout } = await daemon.run(["resume", "--previous", "--timeout", "5m", "iaaa"]);
  assert.equal(stdout, "iaaa running, as of the snapshot before; what came after it is lost\n");
  assert.deepEqual(daemon.bodies, [{ previous: true, timeoutMs: 300_000 }]);
  const again = await daemon.run(["resume", "--previous", "iaaa"]);
  assert.equal(again.exitCode, 1);
  assert.equal(again.stdout, "");
});

test("fork prints the ids that there are, and fails when one is missing", async () => {
  await using daemon = await start("iaaa");
  const one = await daemon.run(["fork", "iaa", "--timeout", "1h", "--timing"]);
  assert.equal(one.stdout, "inew1\n");
  assert.match(one.stderr, /capture memory +1\.5 ms/);
  assert.equal(one.exitCode, 0);
  assert.deepEqual(daemon.bodies, [{ count: 1, timeoutMs: 3_600_000 }]);
  const three = await daemon.run(["fork", "iaa", "--count", "3"]);
  assert.equal(three.stdout, "inew2\ninew3\n");
  assert.equal(three.stderr, "error: the disk is full\n  next: Free disk space and try again.\n");
  assert.equal(three.exitCode, 1);
  const asJson = await daemon.run(["fork", "iaaa", "--count", "2", "--json"]);
  const error = new TorporError("storage.noSpace", "the disk is full").toBody();
  assert.deepEqual(JSON.parse(asJson.stdout), [{ id: "inew4" }, { error }]);
  assert.deepEqual([asJson.stderr, asJson.exitCode], ["", 1]);
});

test("snapshot takes one by itself, and has verbs of its own", async () => {
  await using daemon = await start("iaaa");
  const taken = await daemon.run(["snapshot", "iaa", "ready"]);
  assert.equal(taken.stdout, "snap1\n");
  assert.match(taken.stderr, /`torpor create --template ready`/);
  assert.equal((await daemon.run(["snapshot", "create", "iaaa"])).stdout, "snap2\n");
  const { stdout } = await daemon.run(["snapshot", "ls"]);
  assert.match(stdout, /^NAME +ID +SANDBOX +AGE +POOL\nready +snap1 +iaaa +0s +0\n- +snap2 /);
  const pool = await daemon.run(["snapshot", "pool", "ready", "2"]);
  assert.equal(pool.stdout, "2 sandboxes are kept ready of ready\n");
  const removed = await daemon.run(["snapshot", "rm", "nope", "snap1"]);
  assert.equal(removed.stdout, "snap1\n");
  assert.match(removed.stderr, /there is no snapshot "nope"/);
  assert.equal(removed.exitCode, 1);
});

test("timeout says when the sandbox ends from now on", async () => {
  await using daemon = await start("iaaa");
  const { stdout } = await daemon.run(["timeout", "iaaa", "5m"]);
  assert.match(stdout, /^iaaa ends \d{4}-.*Z \(in (4 min 59 s|5 min)\), then it is removed\n$/);
  assert.equal((await daemon.run(["timeout", "iaaa", "never"])).stdout, "iaaa ends never\n");
  assert.deepEqual(daemon.bodies, [{ timeoutMs: 300_000 }, { timeoutMs: null }]);
});

test("a new sandbox gets the lifetime that was asked for", async () => {
  await using daemon = await start();
  const options = ["--timeout", "90", "--on-timeout", "pause", "--idle-timeout", "5m"];
  await daemon.run(["create", ...options, "--max-run", "never"]);
  await daemon.run(["run", ...options, "--", "true"]);
  const lifetime = { timeoutMs: 90_000, autoPause: true, idleTimeoutMs: 300_000 };
  const rest = { templateID: "base", envVars: {}, metadata: {} };
  const [created, ran] = daemon.bodies;
  assert.deepEqual(created, { ...rest, ...lifetime, maxRunMs: null });
  assert.deepEqual(ran, { ...rest, ...lifetime });
});

test("info tells of time, layers and the last words of a VM, which cannot move the cursor", async () => {
  await using daemon = await start();
  daemon.sandboxes = [
    sandboxInfo({
      id: "iaaa",
      state: "failed",
      pid: null,
      reason: "the VM ended by itself: \u001b[31mpanic\u0007",
      lastLines: ["one", "\u001b[2Jpanic"],
      leftMs: 90_000,
      idleTimeoutMs: 60_000,
      maxRunMs: 3_600_000,
      missedDeadline: { rule: "timeout", atMs: 0, message: "the disk is full" },
      snapshot: {
        id: "snap1",
        generation: 2,
        createdAtMs: 0,
        memoryBytes: 1_024,
        memoryLayers: 3,
        diskBytes: 2_048,
        diskLayers: 1,
      },
      hasPrevious: true,
    }),
  ];
  const { stdout } = await daemon.run(["info", "iaaa"]);
  for (const line of [
    "state         failed: the VM ended by itself: panic",
    "ends          after 1 min 30 s more of running, then it is removed",
    "idle timeout  1 min unused, then it is put to sleep",
    "maximum       1 h of running altogether, then it is removed",
    "missed        timeout, at 1970-01-01T00:00:00.000Z: the disk is full",
    "  id          snap1",
    "  memory      1.0 KiB in the newest, 3 layers",
    "  disk        2.0 KiB, 1 layer",
    "  before it   one more: `torpor resume --previous iaaa`",
    "last lines\n  one\n  panic",
  ]) {
    assert.ok(stdout.includes(`\n${line}\n`), `${line}\n${stdout}`);
  }
});

test("a command waits while a snapshot is taken, and is not refused", async () => {
  await using daemon = await start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa", state: "checkpointing" })];
  daemon.guest.turnedAwayCount = 2;
  const result = await daemon.run(["exec", "iaaa", "--", "echo", "once"]);
  assert.deepEqual(result, { exitCode: 0, stdout: "once\n", stderr: "" });
  assert.equal(daemon.guest.starts.length, 1);
});

test("rm tries every sandbox and fails when one could not be removed", async () => {
  await using daemon = await start("iaaa", "ibbb");
  daemon.answer = ({ method, path }) =>
    method === "DELETE" && path.endsWith("iaaa") ? { status: 500, body: {} } : undefined;
  const { exitCode, stdout } = await daemon.run(["rm", "--all"]);
  assert.equal(exitCode, 1);
  assert.equal(stdout, "ibbb\n");
});

test("nothing is removed when one of the names is wrong", async () => {
  await using daemon = await start("iaaa");
  assert.equal((await daemon.run(["rm", "iaaa", "izzz"])).exitCode, 1);
  assert.equal(daemon.sandboxes.length, 1);
});

test("logs show the console, or the daemon's log without the daemon", async () => {
  await using daemon = await start("iaaa");
  assert.equal((await daemon.run(["logs", "iaaa"])).stdout, "hello from iaaa\n");
  await writeFile(join(daemon.stateFolder, "daemon.log"), "raw line\n");
  assert.equal((await daemon.run(["logs", "--daemon"])).stdout, "raw line\n");
});

test("the version is that of the package", async () => {
  const text = await readFile(new URL("../package.json", import.meta.url), "utf8");
  const { stdout } = await runForTest(["--version"], nowhere);
  assert.ok(text.includes(`"version": "${stdout.trim()}"`));
});

test("info tells how far a pager is, and of one that does not answer", async () => {
  await using daemon = await FakeDaemon.start();
  const progress = {
    phase: "rest",
    presentPages: 512,
    memoryPages: 65_536,
    faults: 7,
    prefetchedPages: 500,
    workingSetPages: 256,
    remark: "a record \u001b[31mwas of no use",
  } as const;
  daemon.sandboxes = [
    sandboxInfo({ id: "iaaa", pager: { pid: 5, progress } }),
    sandboxInfo({ id: "ibbb", pager: { pid: 6, progress: null } }),
    sandboxInfo({ id: "iccc" }),
  ];
  const { stdout } = await daemon.run(["info", "iaaa"]);
  assert.match(stdout, /^memory +fetching the rest; 2\.0 MiB of 256\.0 MiB there, 7 faults$/m);
  assert.match(stdout, /^ {2}working set +1\.0 MiB$/m);
  assert.match(stdout, /^ {2}remark +a record was of no use$/m);
  const json = parseJson((await daemon.run(["info", "iaaa", "--json"])).stdout, "info");
  assert.deepEqual((json as SandboxInfo).pager, { pid: 5, progress });
  const silent = await daemon.run(["info", "ibbb"]);
  assert.match(silent.stdout, /^memory +its pager, process 6, does not answer$/m);
  assert.doesNotMatch((await daemon.run(["info", "iccc"])).stdout, /^memory/m);
});
