import assert from "node:assert/strict";
import { connect } from "node:net";
import { join } from "node:path";
import { mkdtempDisposable, readdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { test } from "node:test";
import type { MessageInitShape } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { Signal, type StreamInputRequestSchema, outputOffsetHeader } from "@torpor/protocol";
import { Accounts } from "./accounts.ts";
import {
  Events,
  asUser,
  byPid,
  makeTestCgroup,
  ptyInput,
  startScript,
  startTestAgent,
  stdinInput,
  untilGone,
} from "./fixtures.ts";

const isRoot = process.geteuid?.() === 0;

async function codeOf(work: Promise<unknown>): Promise<Code | undefined> {
  try {
    await work;
    return undefined;
  } catch (error) {
    return ConnectError.from(error).code;
  }
}

test("Start streams start, both outputs, and the end with its exit code", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "echo out; echo err >/dev/stderr; exit 3");
  assert.ok((await events.pid()) > 1);
  const rest = await events.rest();
  assert.equal(rest.stdout, "out\n");
  assert.equal(rest.stderr, "err\n");
  assert.equal(rest.kinds.at(-1), "end");
  assert.deepEqual(rest.end, {
    exitCode: 3,
    exited: true,
    status: "exit status 3",
    error: "exit status 3",
  });
});

test("Start reports a success without an error, and a signal as -1", async () => {
  await using agent = await startTestAgent();
  const fine = startScript(agent, "true");
  await fine.pid();
  assert.deepEqual((await fine.rest()).end, {
    exitCode: 0,
    exited: true,
    status: "exit status 0",
    error: undefined,
  });
  const killed = startScript(agent, "kill -KILL $$");
  await killed.pid();
  assert.deepEqual((await killed.rest()).end, {
    exitCode: -1,
    exited: false,
    status: "signal: killed",
    error: "signal: killed",
  });
});

test("Start loses none of a large output", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "head -c 20000000 /dev/zero | tr '\\0' x");
  await events.pid();
  const { stdout, end } = await events.rest();
  assert.equal(stdout.length, 20_000_000);
  assert.equal(end?.exitCode, 0);
});

test("Start gives the environment of the wire, and nothing of the agent's own", async () => {
  await using agent = await startTestAgent();
  await agent.init({ envVars: { COLOUR: "red", SHAPE: "round" } });
  const events = startScript(agent, "env | sort", { envs: { COLOUR: "blue" } });
  await events.pid();
  const { stdout } = await events.rest();
  const names = stdout.split("\n").filter((line) => !/^(PWD|SHLVL|_|OLDPWD)=/.test(line));
  assert.deepEqual(names, [
    "COLOUR=blue",
    "E2B_SANDBOX=true",
    "E2B_SANDBOX_ID=sandbox",
    "E2B_TEMPLATE_ID=template",
    "HOME=/root",
    "LANG=C.UTF-8",
    "LOGNAME=root",
    "PATH=/root/.local/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "SHAPE=round",
    "SHELL=/bin/bash",
    "USER=root",
    "",
  ]);
});

test("Start gives what a login has, and a sandbox's and a request's own variables win", async () => {
  await using agent = await startTestAgent();
  await writeFile(join(agent.folder, ".environment"), "PATH=/opt/x:/usr/bin:/bin\nA=1\nB=1\nC=1\n");
  await writeFile(join(agent.folder, ".locale"), "LANG=de_DE.UTF-8\nPATH=/nowhere\n");
  await agent.init({ envVars: { B: "2", C: "2" } });
  const said = async (envs: Record<string, string> = {}): Promise<string> => {
    const events = startScript(agent, "echo $PATH $LANG $A $B $C", { envs });
    await events.pid();
    return (await events.rest()).stdout.trim();
  };
  assert.equal(await said(), "/root/.local/bin:/opt/x:/usr/bin:/bin de_DE.UTF-8 1 2 2");
  const own = { PATH: "/bin", LANG: "C", C: "3" };
  assert.equal(await said(own), "/bin C 1 2 3");
  await writeFile(join(agent.folder, ".environment"), "A=other\n");
  assert.match(await said(), /\/usr\/local\/bin:.* de_DE.UTF-8 other 2 2$/);
});

test("Commands without a terminal read and count characters, not bytes", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "printf è | sed y/è/e/; printf è | wc -m");
  await events.pid();
  assert.equal((await events.rest()).stdout, "e1\n");
});

test("Start runs as the user of the request", { skip: !isRoot }, async () => {
  await using agent = await startTestAgent();
  const script = "id -un; id -gn; echo $HOME; echo seen >/dev/stderr; pwd";
  const events = startScript(agent, script, { ...asUser("daemon"), cwd: "/" });
  await events.pid();
  const { stdout, stderr } = await events.rest();
  assert.equal(stdout, "daemon\ndaemon\n/usr/sbin\n/\n");
  assert.equal(stderr, "seen\n");
  const unknown = startScript(agent, "true", asUser("nobody-of-that-name"));
  assert.equal(await codeOf(unknown.pid()), Code.Unauthenticated);
});

test("Start goes through setpriv for a user with more groups", { skip: !isRoot }, async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-accounts-"));
  const groupFile = join(folder.path, "group");
  await writeFile(groupFile, "daemon:x:1:\nmore:x:9999:root,daemon\n");
  await using agent = await startTestAgent({ accounts: new Accounts("/etc/passwd", groupFile) });
  const events = startScript(agent, 'id -u; id -g; echo "$0 $1"', {
    ...asUser("daemon"),
    cwd: "/",
  });
  await events.pid();
  assert.equal((await events.rest()).stdout, "1\n1\n/bin/sh \n");
});

test("Start refuses a missing folder, a missing command and one that cannot be run", async () => {
  await using agent = await startTestAgent();
  const plain = join(agent.folder, "plain");
  await writeFile(plain, "text");
  await assert.rejects(startScript(agent, "true", { cwd: "/does/not/exist" }).pid(), {
    code: Code.InvalidArgument,
    rawMessage: "cwd '/does/not/exist' does not exist",
  });
  for (const cmd of ["no-such-command", "/no/such/command", plain, "", "/tmp"]) {
    const events = new Events(agent.process.start({ process: { cmd } }));
    assert.equal(await codeOf(events.pid()), Code.InvalidArgument, cmd);
  }
});

test("Start resolves its folder against the home, and takes the default one without", async () => {
  await using agent = await startTestAgent();
  await agent.init({ defaultWorkdir: agent.folder });
  const inDefault = startScript(agent, "pwd");
  await inDefault.pid();
  assert.equal((await inDefault.rest()).stdout, `${agent.folder}\n`);
  const inHome = startScript(agent, "pwd", { cwd: "~" });
  await inHome.pid();
  assert.equal((await inHome.rest()).stdout, "/root\n");
  assert.equal(
    await codeOf(startScript(agent, "pwd", { cwd: "~daemon" }).pid()),
    Code.InvalidArgument,
  );
});

test("Input reaches the process until CloseStdin, which may be repeated", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "cat", { stdin: true });
  const target = byPid(await events.pid());
  await agent.process.sendInput({ process: target, input: stdinInput("one\n") });
  assert.equal(await events.until("one\n"), "one\n");
  await agent.process.streamInput(
    (async function* (): AsyncGenerator<MessageInitShape<typeof StreamInputRequestSchema>> {
      yield { event: { case: "start", value: { process: target } } } as const;
      yield { event: { case: "data", value: { input: stdinInput("two\n") } } } as const;
      yield { event: { case: "keepalive", value: {} } } as const;
      yield { event: { case: "data", value: { input: stdinInput("three\n") } } } as const;
    })(),
  );
  assert.equal(await events.until("three\n"), "two\nthree\n");
  assert.equal(
    await codeOf(agent.process.sendInput({ process: target, input: ptyInput("x") })),
    Code.Internal,
  );
  assert.equal(await codeOf(agent.process.sendInput({ process: target })), Code.Unimplemented);
  assert.equal(
    await codeOf(agent.process.update({ process: target, pty: { size: { cols: 1, rows: 1 } } })),
    Code.Internal,
  );
  await agent.process.update({ process: target });
  await agent.process.closeStdin({ process: target });
  await agent.process.closeStdin({ process: target }).catch(() => undefined);
  assert.equal((await events.rest()).end?.exitCode, 0);
});

test("A process without input reads end of file and refuses input", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "cat; echo ended; sleep 100");
  const target = byPid(await events.pid());
  await events.until("ended\n");
  assert.equal(
    await codeOf(agent.process.sendInput({ process: target, input: stdinInput("x") })),
    Code.Internal,
  );
  await agent.process.sendSignal({ process: target, signal: Signal.SIGKILL });
  await events.rest();
});

test("SendSignal ends the group; others than TERM and KILL are unimplemented", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "sleep 100 & echo $!; wait");
  const target = byPid(await events.pid());
  const child = Number(await events.until("\n"));
  assert.equal(
    await codeOf(agent.process.sendSignal({ process: target, signal: Signal.UNSPECIFIED })),
    Code.Unimplemented,
  );
  await agent.process.sendSignal({ process: target, signal: Signal.SIGTERM });
  assert.equal((await events.rest()).end?.status, "signal: terminated");
  await untilGone(child);
  const late = agent.process.sendSignal({ process: target, signal: Signal.SIGKILL });
  assert.equal(await codeOf(late), Code.NotFound);
});

test("The timeout of Start kills the whole group and ends the stream as a deadline", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "sleep 100 & echo $!; wait", {
    headers: { "Connect-Timeout-Ms": "1000" },
  });
  const leader = await events.pid();
  const watching = new Events(agent.process.connect({ process: byPid(leader) }));
  await watching.pid();
  const child = Number(await events.until("\n"));
  assert.equal(await codeOf(events.rest()), Code.DeadlineExceeded);
  await untilGone(leader);
  await untilGone(child);
  assert.equal((await watching.rest()).end?.status, "signal: killed");
});

test("The timeout of Start also kills descendants that left the group", async (t) => {
  await using cgroup = await makeTestCgroup();
  if (cgroup === undefined) return t.skip("no cgroup can be made here");
  await using agent = await startTestAgent({ userCgroup: cgroup.path });
  const events = startScript(agent, "setsid sleep 1000 & echo $!; wait", { timeoutMs: 500 });
  await events.pid();
  const descendant = Number(await events.until("\n"));
  assert.equal(await codeOf(events.rest()), Code.DeadlineExceeded);
  await untilGone(descendant);
});

test("A daemon that a command left behind lives on, and is counted among user processes", async (t) => {
  await using cgroup = await makeTestCgroup();
  if (cgroup === undefined) return t.skip("no cgroup can be made here");
  await using agent = await startTestAgent({ userCgroup: cgroup.path });
  const events = startScript(agent, "setsid sleep 1000 >/dev/null 2>&1 & echo $!");
  await events.pid();
  const daemon = Number((await events.rest()).stdout);
  const folders = async (): Promise<number> => {
    const entries = await readdir(cgroup.path, { withFileTypes: true });
    return entries.filter((entry) => entry.isDirectory()).length;
  };
  assert.equal(await folders(), 1);
  process.kill(daemon, "SIGKILL");
  await untilGone(daemon);
  const next = startScript(agent, "true");
  await next.pid();
  await next.rest();
  assert.equal(await folders(), 0, "its folder is gone with it");
});

test("Connect goes on from the offsets a client names, and says where a stream begins", async () => {
  await using agent = await startTestAgent();
  const started = startScript(agent, "echo one; read line; echo two; echo err >&2; read line", {
    stdin: true,
    onHeader: (headers) => assert.equal(headers.get(outputOffsetHeader), "0,0"),
  });
  const pid = await started.pid();
  await started.until("one\n");
  await started.leave();
  const input = { process: byPid(pid), input: stdinInput("\n") };
  await agent.process.sendInput(input);
  const plain = new Events(agent.process.connect({ process: byPid(pid) }));
  await plain.pid();

  const connectFrom = (offsets: string, onHeader?: (headers: Headers) => void): Events =>
    new Events(
      agent.process.connect(
        { process: byPid(pid) },
        {
          headers: { [outputOffsetHeader]: offsets },
          ...(onHeader === undefined ? {} : { onHeader }),
        },
      ),
    );
  const again = connectFrom("2,0", (headers) =>
    assert.equal(headers.get(outputOffsetHeader), "2,0"),
  );
  await again.pid();
  assert.equal(await again.until("err\n"), "e\ntwo\nerr\n");
  await agent.process.sendInput(input);
  assert.equal((await again.rest()).end?.exitCode, 0);
  assert.equal((await plain.rest()).end?.exitCode, 0);

  const late = connectFrom("4,4");
  await late.pid();
  const { stdout, stderr, end } = await late.rest();
  assert.deepEqual(
    { stdout, stderr, exitCode: end?.exitCode },
    { stdout: "two\n", stderr: "", exitCode: 0 },
  );
  assert.equal(await codeOf(connectFrom("9,0").pid()), Code.OutOfRange);
  assert.equal(await codeOf(connectFrom("0").pid()), Code.InvalidArgument);
});

test("The timeout of Connect ends that stream alone", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "cat", { stdin: true });
  const target = byPid(await events.pid());
  const watching = new Events(
    agent.process.connect({ process: target }, { headers: { "Connect-Timeout-Ms": "20" } }),
  );
  await watching.pid();
  assert.equal(await codeOf(watching.rest()), Code.DeadlineExceeded);
  await agent.process.closeStdin({ process: target });
  assert.equal((await events.rest()).end?.exitCode, 0);
});

test("A client that goes away ends nothing; List and Connect still find the process", async () => {
  await using agent = await startTestAgent();
  const first = startScript(agent, "cat", { stdin: true, tag: "cat" });
  const pid = await first.pid();
  await first.leave();
  const { processes } = await agent.process.list({});
  assert.deepEqual(
    processes.map((info) => [info.pid, info.tag, info.config?.cmd, info.config?.args]),
    [[pid, "cat", "/bin/sh", ["-c", "cat"]]],
  );
  const byTag = { selector: { case: "tag", value: "cat" } } as const;
  const second = new Events(agent.process.connect({ process: byTag }));
  assert.equal(await second.pid(), pid);
  await agent.process.sendInput({ process: byTag, input: stdinInput("still here\n") });
  await second.until("still here\n");
  await agent.process.closeStdin({ process: byTag });
  assert.equal((await second.rest()).end?.exitCode, 0);
  assert.deepEqual((await agent.process.list({})).processes, []);
});

test("A late Connect learns the end; after the time it is kept it is not found", async () => {
  await using agent = await startTestAgent({ limits: { exitKeptMs: 1_500 } });
  const events = startScript(agent, "exit 7");
  const pid = await events.pid();
  await events.rest();
  const late = new Events(agent.process.connect({ process: byPid(pid) }));
  assert.equal(await late.pid(), pid);
  assert.equal((await late.rest()).end?.exitCode, 7);
  let code: Code | undefined;
  while (code === undefined) {
    const later = new Events(agent.process.connect({ process: byPid(pid) }));
    code = await codeOf(later.pid());
    await later.leave();
  }
  assert.equal(code, Code.NotFound);
});

test("The end comes although a descendant holds the output open, and the descendant lives", async () => {
  await using agent = await startTestAgent({ limits: { outputGraceMs: 50 } });
  const events = startScript(agent, "sleep 100 & echo $!");
  await events.pid();
  const { stdout, end } = await events.rest();
  assert.equal(end?.exitCode, 0);
  process.kill(Number(stdout), 0);
  process.kill(Number(stdout), "SIGKILL");
});

test("A subscriber that reads nothing neither stalls the process nor the others", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "read go; head -c 20000000 /dev/zero; echo; echo done", {
    stdin: true,
  });
  const pid = await events.pid();
  // A connection whose receive window fills up and is never emptied.
  const dead = connect(agent.port, "127.0.0.1");
  const message = Buffer.from(JSON.stringify({ process: { pid } }));
  const envelope = Buffer.alloc(5);
  envelope.writeUInt32BE(message.length, 1);
  dead.write(
    "POST /process.Process/Connect HTTP/1.1\r\nHost: x\r\n" +
      "Content-Type: application/connect+json\r\nConnect-Protocol-Version: 1\r\n" +
      `Content-Length: ${message.length + 5}\r\n\r\n`,
  );
  dead.write(Buffer.concat([envelope, message]));
  await new Promise<void>((resolve) => {
    dead.once("readable", resolve);
  });
  await agent.process.sendInput({ process: byPid(pid), input: stdinInput("go\n") });
  const { stdout, end } = await events.rest();
  assert.equal(end?.exitCode, 0);
  assert.ok(stdout.endsWith("\ndone\n"));
  assert.equal(stdout.length, 20_000_000 + "\ndone\n".length);
  dead.destroy();
});

test("A process whose only subscriber reads nothing runs on after a while", async () => {
  await using agent = await startTestAgent({ limits: { subscriberPatienceMs: 50 } });
  const events = startScript(agent, "head -c 20000000 /dev/zero; echo x >$OUT", {
    envs: { OUT: join(agent.folder, "out") },
  });
  const pid = await events.pid();
  // Not read any further; the transport's own buffers fill, then the agent's queue.
  await untilGone(pid);
  await events.leave();
});

test("A silent stream carries keepalives at the interval that was asked for", async () => {
  await using agent = await startTestAgent();
  const stream = agent.process.start(
    { process: { cmd: "cat" } },
    { headers: { "Keepalive-Ping-Interval": "1" } },
  );
  const kinds: (string | undefined)[] = [];
  for await (const { event } of stream) {
    kinds.push(event?.event.case);
    if (event?.event.case === "start") continue;
    if (kinds.length < 4) {
      const { processes } = await agent.process.list({});
      if (kinds.length === 3) {
        await agent.process.closeStdin({ process: byPid(processes[0]?.pid ?? 0) });
      }
    }
  }
  assert.deepEqual(kinds, ["start", "keepalive", "keepalive", "end"]);
});

test("A terminal is the controlling one, has the size asked for and can be resized", async () => {
  await using agent = await startTestAgent();
  const script =
    "tty; stty size; trap 'stty size; exit 5' WINCH; echo ready; while :; do sleep 0.01; done";
  const events = startScript(agent, script, { terminal: { cols: 100, rows: 30 } });
  const target = byPid(await events.pid());
  const opening = await events.until("ready\r\n");
  assert.match(opening, /^\/dev\/pts\/\d+\r\n30 100\r\n/);
  assert.equal(await codeOf(agent.process.closeStdin({ process: target })), Code.Unknown);
  assert.equal(
    await codeOf(agent.process.sendInput({ process: target, input: stdinInput("x") })),
    Code.Internal,
  );
  await agent.process.update({ process: target, pty: { size: { cols: 77, rows: 22 } } });
  const { pty, end } = await events.rest();
  assert.equal(pty, "22 77\r\n");
  assert.equal(end?.exitCode, 5);
});

test("A shell in a terminal takes what is typed, with job control", async () => {
  await using agent = await startTestAgent();
  const events = new Events(
    agent.process.start({
      process: { cmd: "/bin/bash", args: ["--norc", "-i"], envs: { PS1: "prompt> " } },
      pty: { size: { cols: 80, rows: 24 } },
    }),
  );
  const target = byPid(await events.pid());
  await events.until("prompt> ");
  await agent.process.sendInput({ process: target, input: ptyInput("echo go; cat\n") });
  await events.until("go\r\n");
  await agent.process.sendInput({ process: target, input: ptyInput("typed\n") });
  // Once from the echo of the terminal, once from cat.
  await events.until("typed\r\ntyped\r\n");
  // Ctrl-C ends cat and not the shell, which only a controlling terminal can do.
  await agent.process.sendInput({ process: target, input: ptyInput("\u0003") });
  await events.until("prompt> ");
  await agent.process.sendInput({ process: target, input: ptyInput("exit 4\n") });
  assert.equal((await events.rest()).end?.exitCode, 4);
});

test("A terminal belongs to the user of the request", { skip: !isRoot }, async () => {
  await using agent = await startTestAgent();
  const script = 'id -un; [ "$(stat -c %U "$(tty)")" = daemon ] && echo own; echo x >"$(tty)"';
  const events = startScript(agent, script, {
    ...asUser("daemon"),
    cwd: "/",
    terminal: { cols: 80, rows: 24 },
  });
  await events.pid();
  assert.equal((await events.rest()).pty, "daemon\r\nown\r\nx\r\n");
});

test("A terminal that is not read takes much input without holding up the agent", async () => {
  await using agent = await startTestAgent();
  const events = startScript(agent, "stty raw -echo; echo ready; read x; cat >/dev/null", {
    terminal: { cols: 80, rows: 24 },
  });
  const target = byPid(await events.pid());
  await events.until("ready");
  const typing = agent.process.sendInput({ process: target, input: ptyInput("y".repeat(200_000)) });
  assert.equal((await fetch(`${agent.url}/health`)).status, 204);
  await agent.process.sendSignal({ process: target, signal: Signal.SIGKILL });
  await typing.catch(() => undefined);
  assert.equal((await events.rest()).end?.status, "signal: killed");
});
