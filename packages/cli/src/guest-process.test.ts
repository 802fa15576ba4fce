import assert from "node:assert/strict";
import { Readable } from "node:stream";
import { test } from "node:test";
import { FakeDaemon, accessToken, sandboxInfo } from "./fixtures.ts";
import { attach } from "./foreground.ts";
import { Guest, type GuestCommand, captureOutput } from "./guest-process.ts";
import { Interrupt } from "./interrupt.ts";

const access = { id: "iaaa", accessToken };

async function start(): Promise<FakeDaemon> {
  const daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" })];
  return daemon;
}

function shell(script: string, stdin = false): GuestCommand {
  return { argv: ["/bin/sh", "-c", script], env: {}, stdin };
}

function collector(): {
  out: string;
  err: string;
  writeOut(b: Uint8Array): Promise<void>;
  writeError(b: Uint8Array): Promise<void>;
} {
  return {
    out: "",
    err: "",
    async writeOut(bytes) {
      this.out += Buffer.from(bytes).toString();
    },
    async writeError(bytes) {
      this.err += Buffer.from(bytes).toString();
    },
  };
}

test("both streams and the exit code arrive", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  const process = await guest.start(shell("echo out; echo err >&2; exit 7"));
  const output = collector();
  assert.equal(await process.follow(output), 7);
  assert.equal(output.out, "out\n");
  assert.equal(output.err, "err\n");
});

test("environment, folder, user and token go along", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access, "root");
  const command = { ...shell("echo $A; pwd"), env: { A: "1" }, workdir: "/usr" };
  assert.equal(await captureOutput(guest, command), "1\n/usr\n");
  const user = `Basic ${Buffer.from("root:").toString("base64")}`;
  assert.deepEqual(daemon.guest.callers, [{ user, token: accessToken }]);
});

test("a signal ends with 128 and its number", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  const process = await guest.start(shell("exec sleep 1000"));
  await process.signal("SIGKILL");
  assert.equal(await process.follow(collector()), 137);
});

test("a command that is not there or may not run has a shell's exit code", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  const argv = (first: string): GuestCommand => ({ argv: [first], env: {}, stdin: false });
  await assert.rejects(guest.start(argv("no-such-command")), {
    code: "guest.refused",
    rawMessage: "no-such-command was not found in the sandbox",
    details: { exitCode: 127 },
    effect: "none",
  });
  await assert.rejects(guest.start(argv("/etc/passwd")), { details: { exitCode: 126 } });
});

test("a sandbox that does not run cannot be reached", async () => {
  await using daemon = await start();
  daemon.sandboxes = [];
  using guest = new Guest(daemon.socketPath, access);
  await assert.rejects(guest.start(shell("true")), { code: "guest.unreachable" });
});

test("captured output of a failed command is its error", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  await assert.rejects(captureOutput(guest, shell("echo why >&2; exit 3")), /ended with 3: why/);
});

test("input is passed on to its end, in order", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  using interrupt = new Interrupt();
  const output = collector();
  const pieces = Array.from({ length: 20 }, (_, index) => Buffer.from(`${index}\n`));
  const exitCode = await attach(await guest.start(shell("cat", true)), {
    output,
    input: Readable.from(pieces),
    onInputEnd: "close",
    interrupt,
    onInterrupt: "leave",
  });
  assert.equal(exitCode, 0);
  assert.equal(output.out, Buffer.concat(pieces).toString());
});

test("a command that ends does not wait for input", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  using interrupt = new Interrupt();
  const input = new Readable({ read: () => undefined });
  const exitCode = await attach(await guest.start(shell("exit 4", true)), {
    output: collector(),
    input,
    onInputEnd: "close",
    interrupt,
    onInterrupt: "leave",
  });
  assert.equal(exitCode, 4);
  assert.equal(input.destroyed, true);
});

test("an interrupt ends the command, or leaves it to the end of its sandbox", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  for (const onInterrupt of ["end", "leave"] as const) {
    using interrupt = new Interrupt();
    const process = await guest.start(shell("exec sleep 1000"));
    const attached = attach(process, {
      output: collector(),
      input: undefined,
      onInputEnd: "close",
      interrupt,
      onInterrupt,
    });
    interrupt.readerGone();
    assert.equal(await attached, 141);
  }
});

test("a terminal's size is sent at the start and when it changes", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  const terminal = { columns: 90, rows: 20 };
  const process = await guest.start({ ...shell("exec sleep 1000", true), terminal });
  await process.resize({ columns: 91, rows: 21 });
  process.detach();
  const { size } = daemon.guest.starts[0]?.pty ?? {};
  assert.deepEqual([size?.cols, size?.rows], [90, 20]);
  assert.deepEqual(daemon.guest.sizes, [{ cols: 91, rows: 21 }]);
});

test("attach() gives up a guest that answers no signal", async () => {
  await using daemon = await start();
  using guest = new Guest(daemon.socketPath, access);
  const started = await guest.start(shell("exec sleep 1000"));
  const sent: string[] = [];
  const send = started.signal.bind(started);
  started.signal = async (name) => {
    sent.push(name);
    await new Promise(() => undefined);
  };
  using interrupt = new Interrupt();
  const attached = attach(started, {
    output: collector(),
    input: undefined,
    onInputEnd: "close",
    interrupt,
    onInterrupt: "end",
    graceMs: 10,
    killedMs: 10,
  });
  interrupt.terminalGone();
  await assert.rejects(attached, { code: "guest.unreachable", effect: "maybe" });
  assert.deepEqual(sent, ["SIGTERM", "SIGKILL"]);
  await send("SIGKILL");
});
