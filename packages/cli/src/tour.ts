/**
 * A guided first sandbox: shows on a live one, in some seconds, what Torpor is for.
 *
 * A process in the sandbox counts in its memory. The sandbox is put to sleep: its VM process is
 * gone from this machine. It is woken: the same process continues counting from where it was. The
 * tour assumes nothing; it checks every claim before it prints it, and a wrong one is a failure.
 */
import { Deadline, TorporError } from "@torpor/std";
import type { SandboxAccess } from "./daemon-answers.ts";
import type { DaemonClient } from "./daemon-client.ts";
import { Guest, type GuestCommand, captureOutput } from "./guest-process.ts";
import type { Interrupt } from "./interrupt.ts";
import { type Output, shownBytes, shownDuration } from "./output.ts";
import { isRunningProcess } from "./process-state.ts";

const template = "base";
const notesFile = "notes.txt";
const countFile = "count.txt";
/**
 * A file shows count and mark, but the process never reads them back: they live in its memory. The
 * mark is drawn at random once, so a restarted process could not pass for this one.
 */
const counterScript = `
import os, time
count, mark = 0, os.urandom(8).hex()
while True:
    count += 1
    with open("${countFile}.new", "w") as file:
        file.write(f"{os.getpid()} {count} {mark}")
    os.replace("${countFile}.new", "${countFile}")
    time.sleep(0.1)
`;
/** How far the process must count before the tour believes that it runs. */
const countMin = 5;
const countMs = 60_000;
const pollMs = 100;
const stepCells = 34;
const timeCells = 9;

const nextSteps: readonly (readonly [string, string])[] = [
  ["torpor run -- python3 -c 'print(2**64)'", "one command in a fresh sandbox"],
  ["torpor create", "a sandbox that stays; prints its ID"],
  ["torpor exec -t ID", "a shell in it"],
  ["torpor pause ID", "put it to sleep; `resume ID` wakes it"],
  ["torpor ls", "what there is; `rm ID` removes one"],
];

interface Tour {
  readonly daemon: DaemonClient;
  readonly output: Output;
  readonly interrupt: Interrupt;
}

interface Count {
  readonly pid: number;
  readonly count: number;
  readonly mark: string;
}

/** Runs the tour. Leaves nothing behind, also when it fails or is interrupted. @throws canceled */
export async function runTour(
  daemon: DaemonClient,
  output: Output,
  interrupt: Interrupt,
): Promise<void> {
  const tour: Tour = { daemon, output, interrupt };
  output.print("");
  output.print(output.heading("A first sandbox"));
  const access = await timed(tour, `create a sandbox from "${template}"`, async () => {
    const metadata = { purpose: "tour" };
    const created = await daemon.create({ template, env: {}, metadata });
    return [created, `sandbox ${created.id}`];
  });
  try {
    await sleepAndWake(tour, access);
  } finally {
    await timed({ ...tour, interrupt: undefined }, "remove it", async () => [
      await daemon.remove(access.id),
      "",
    ]);
  }
  output.print("");
  output.print(output.heading("Next"));
  output.printTable(
    ["  Command", "What for"],
    nextSteps.map(([command, why]) => [`  ${command}`, why]),
  );
  output.print("");
}

async function sleepAndWake(tour: Tour, access: SandboxAccess): Promise<void> {
  const { daemon } = tour;
  const { id } = access;
  using guest = new Guest(daemon.socketPath, access);
  await timed(tour, "run a line of Python, write a file", async () => [
    undefined,
    await captureOutput(guest, python(`open("${notesFile}", "w").write("kept"); print(6 * 7)`)),
  ]);
  const before = await timed(tour, "start a counter in the background", async () => {
    (await guest.start(python(counterScript))).detach();
    const count = await waitForCount(guest, countMin, tour.interrupt);
    return [count, `process ${count.pid} counts in memory: ${count.count}`];
  });
  const vmPid = (await daemon.look(id)).pid;
  await timed(tour, "pause", async () => {
    await daemon.pause(id);
    const { snapshot } = await daemon.look(id);
    expect(vmPid !== null && !isRunningProcess(vmPid), `VM process ${vmPid} still runs`);
    const bytes = snapshot === null ? "" : `; memory on disk: ${shownBytes(snapshot.memoryBytes)}`;
    return [undefined, `VM process ${vmPid} is gone${bytes}`];
  });
  await timed(tour, "resume", async () => {
    await daemon.resume(id);
    const { pid } = await daemon.look(id);
    expect(pid !== null && isRunningProcess(pid), "there is no VM process");
    return [undefined, `new VM process ${pid}`];
  });
  await timed(tour, "look at the counter again", async () => {
    const after = await waitForCount(guest, before.count + countMin, tour.interrupt);
    expect(after.pid === before.pid, `process ${before.pid} became ${after.pid}`);
    expect(after.mark === before.mark, `process ${before.pid} began anew`);
    await captureOutput(guest, plain(["kill", "-0", String(before.pid)]));
    return [undefined, `same process ${after.pid} went on: ${before.count} → ${after.count}`];
  });
  await timed(tour, "look at the file again", async () => {
    const text = await captureOutput(guest, plain(["cat", notesFile]));
    expect(text === "kept", `${notesFile} changed`);
    return [undefined, `${notesFile} is still there`];
  });
}

/** Runs one step, then prints it with the time it took. @throws canceled before the step begins */
async function timed<T>(
  tour: Omit<Tour, "interrupt"> & { readonly interrupt: Interrupt | undefined },
  step: string,
  work: () => Promise<readonly [T, string]>,
): Promise<T> {
  const { output, interrupt } = tour;
  interrupt?.throwIfHappened();
  const startedMonoMs = performance.now();
  try {
    const [result, shown] = await output.busy(step, work());
    const took = shownDuration(performance.now() - startedMonoMs).padStart(timeCells);
    const line = `  ${output.mark(true)} ${step.padEnd(stepCells)} ${took}  ${shown.trim()}`;
    output.print(line.trimEnd());
    return result;
  } catch (cause) {
    if (interrupt?.happened !== true) output.print(`  ${output.mark(false)} ${step}`);
    throw cause;
  }
}

async function waitForCount(guest: Guest, least: number, interrupt: Interrupt): Promise<Count> {
  const deadline = Deadline.after(countMs, "waiting for the counter");
  for (;;) {
    const text = await captureOutput(guest, shell(`cat ${countFile} 2>/dev/null || true`));
    const [pid, count, mark = ""] = text.trim().split(" ");
    if (Number(count) >= least) return { pid: Number(pid), count: Number(count), mark };
    deadline.check();
    interrupt.throwIfHappened();
    await deadline.sleep(pollMs);
  }
}

function expect(condition: boolean, otherwise: string): asserts condition {
  if (!condition) throw new TorporError("internal", `the tour found that ${otherwise}`);
}

function python(script: string): GuestCommand {
  return plain(["python3", "-u", "-c", script]);
}

/** Not a login shell, which is slow to start under emulation. */
function shell(script: string): GuestCommand {
  return plain(["/bin/sh", "-c", script]);
}

function plain(argv: readonly [string, ...string[]]): GuestCommand {
  return { argv, env: {}, stdin: false };
}
