/**
 * The command of `torpor exec` ends with it, however it ends: the real program on pipes and on a
 * terminal.
 */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Deadline } from "@torpor/std";
import { FakeDaemon, sandboxInfo } from "./fixtures.ts";

const launcher = fileURLToPath(new URL("../../../bin/bootstrap.mjs", import.meta.url));
const endMs = 60_000;
const pollMs = 20;

interface Ending {
  readonly name: string;
  readonly on: "pipes" | "terminal";
  readonly options?: readonly string[];
  /** @param program The launcher, or the program that keeps the terminal. */
  readonly end: (program: ChildProcess) => void;
  readonly exitCode?: number;
}

const press = (key: string) => (program: ChildProcess) => void program.stdin?.write(key);
const kill = (signal: NodeJS.Signals) => (program: ChildProcess) => void program.kill(signal);

const endings: readonly Ending[] = [
  { name: "Ctrl-C", on: "terminal", end: press("\u0003"), exitCode: 130 },
  { name: "Ctrl-\\", on: "terminal", end: press("\u001c"), exitCode: 131 },
  { name: "a terminal that is closed", on: "terminal", end: kill("SIGKILL") },
  {
    name: "a terminal that is closed under a shell",
    on: "terminal",
    options: ["-t"],
    end: kill("SIGKILL"),
  },
  { name: "SIGINT", on: "pipes", end: kill("SIGINT"), exitCode: 130 },
  { name: "SIGTERM", on: "pipes", end: kill("SIGTERM"), exitCode: 143 },
  { name: "SIGHUP", on: "pipes", end: kill("SIGHUP"), exitCode: 129 },
  { name: "SIGQUIT", on: "pipes", end: kill("SIGQUIT"), exitCode: 131 },
  { name: "SIGKILL of the launcher", on: "pipes", end: kill("SIGKILL") },
  { name: "a reader that goes away", on: "pipes", end: ({ stdout }) => void stdout?.destroy() },
];

function spawnExec(daemon: FakeDaemon, { on, options = [] }: Ending): ChildProcess {
  const command = ["sh", "-c", "while :; do echo again; sleep 0.1; done"];
  const argv = [launcher, "exec", ...options, "iaaa", "--", ...command];
  const env = { ...process.env, TORPOR_HOME: daemon.stateFolder };
  if (on === "pipes") return spawn(process.execPath, argv, { env });
  const line = [process.execPath, ...argv].map((word) => `'${word}'`).join(" ");
  return spawn("script", ["--quiet", "--return", "--command", line, "/dev/null"], { env });
}

async function until(what: string, condition: () => boolean): Promise<void> {
  const deadline = Deadline.after(endMs, what);
  while (!condition()) {
    deadline.check();
    await deadline.sleep(pollMs);
  }
}

test("a command ends with the exec that began it", async (t) => {
  for (const ending of endings) {
    for (const moment of ["while it starts", "while it runs"] as const) {
      // A program notices that its reader is gone when it writes, and this one has nothing to write
      // yet.
      if (moment === "while it starts" && ending.name.includes("reader")) continue;
      await t.test(`${ending.name} ${moment}`, async () => endsWith(ending, moment));
    }
  }
});

async function endsWith(
  ending: Ending,
  moment: "while it starts" | "while it runs",
): Promise<void> {
  await using daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" })];
  const { guest } = daemon;
  const asked = Promise.withResolvers<void>();
  const mayStart = Promise.withResolvers<void>();
  guest.beforeStart = async () => {
    asked.resolve();
    await mayStart.promise;
  };
  const program = spawnExec(daemon, ending);
  const exited = once(program, "exit");
  program.stdout?.resume();
  program.stderr?.resume();
  program.stdin?.on("error", () => undefined);
  await Deadline.after(endMs, "the request").race(asked.promise);
  if (moment === "while it starts") {
    ending.end(program);
    await Deadline.after(endMs, "a moment for the signal").sleep(300);
    mayStart.resolve();
    await until("the start", () => guest.begunCount === 1);
  } else {
    mayStart.resolve();
    await once(program.stdout ?? assert.fail(), "data");
    ending.end(program);
  }
  await until("the end of the command", () => guest.runningCount === 0);
  const [exitCode] = (await exited) as [number | null];
  if (ending.exitCode !== undefined) assert.equal(exitCode ?? 0, ending.exitCode);
}
