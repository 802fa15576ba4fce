import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
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
    ..."up down doctor run create exec ls info pause resume rm logs keys completion".split(" "),
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

test("a mistake in the command line exits with 2 and says where to look", async () => {
  const cases: readonly (readonly [readonly string[], RegExp])[] = [
    [["nope"], /unknown command 'nope'\n {2}next: See `torpor --help`/],
    [["ls", "--jsn"], /--jsn' \(Did you mean --json\?\)\n {2}next: See `torpor ls --help`/],
    [["info"], /missing required argument 'id'/],
    [["rm"], /there is no sandbox to remove/],
    [["rm", "--all", "iaaa"], /--all stands alone/],
    [["logs"], /one sandbox or --daemon/],
    [["run"], /missing required argument 'command'/],
    [["run", "-e", "A", "--", "true"], /A is not set here/],
    [["exec", "iaaa"], /there is no command/],
    [["exec", "iaaa", "-t", "--", "ls"], /-t comes too late/],
    [["create", "-m", "x"], /--metadata x is not of the form KEY=VALUE/],
    [["completion", "fish"], /no completion for fish/],
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

test("completion knows verbs and options, and the shell accepts it", async () => {
  const { stdout } = await runForTest(["completion", "bash"], nowhere);
  assert.match(stdout, /words="up down doctor run create exec ls /);
  assert.match(stdout, /keys\|"keys "\*\) words="ls create --help"/);
  assert.match(stdout, /"keys create"\) words="--json --help"/);
  const complete = (...words: readonly string[]): string => {
    const quoted = words.map((word) => `'${word}'`).join(" ");
    const asked = `COMP_WORDS=(torpor ${quoted}) COMP_CWORD=${words.length}; _torpor`;
    const script = `${stdout}\n${asked}; echo "\${COMPREPLY[*]}"`;
    return spawnSync("bash", ["-c", script], { encoding: "utf8" }).stdout.trim();
  };
  assert.equal(complete("key"), "keys");
  assert.equal(complete("keys", ""), "ls create --help");
  assert.equal(complete("keys", "ls", "--j"), "--json");
  assert.equal(complete("resume", "iaaa", "--ti"), "--timing");
});

test("the version is that of the package", async () => {
  const text = await readFile(new URL("../package.json", import.meta.url), "utf8");
  const { stdout } = await runForTest(["--version"], nowhere);
  assert.ok(text.includes(`"version": "${stdout.trim()}"`));
});
