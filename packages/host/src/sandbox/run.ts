/**
 * A sandbox and the run of its VM: how the two are joined, what happens to the sandbox when the VM
 * ends by itself, and how leftovers of earlier runs are removed.
 */
import { rm } from "node:fs/promises";
import { Deadline, ignoreFailure } from "@torpor/std";
import type { VmExit } from "@torpor/vmm";
import { rest } from "../lifecycle/lifetime.ts";
import { type SandboxRun, endRun } from "../steps/run.ts";
import type { Turn } from "./writer.ts";

const endBudgetMs = 15_000;
/** LIMIT: last lines of a VM that ended by itself, as the sandbox's record keeps them. */
const lastLinesMax = 20;
/** QEMU 10 writes this at each start in a view of the file system without /dev/null, and works. */
const harmlessLine = /Failed to open \/dev\/null for OFD lock probing/;

/** Makes this the sandbox's run, until the daemon ends it or it ends by itself. */
export function attach(turn: Turn, run: SandboxRun): void {
  turn.run = run;
  turn.activity.touch();
  turn.events.timed();
  void run.vm.exited.then((exit) =>
    ignoreFailure(
      "the failure is in the log of the queue",
      turn.later((later) => onExit(later, run, exit)),
    ),
  );
}

/** Lets go of the VM without ending it, so that another daemon can adopt it. */
export async function letGo(turn: Turn): Promise<void> {
  const { run } = turn;
  turn.run = undefined;
  run?.traffic[Symbol.dispose]();
  run?.link[Symbol.dispose]();
  run?.vm.release();
  run?.network[Symbol.dispose]();
  turn.letGoOfRecord();
  turn.events.timed();
}

async function onExit(turn: Turn, run: SandboxRun, exit: VmExit): Promise<void> {
  if (turn.run !== run || turn.record.state.kind === "removing") return; // the daemon ended it
  const lastLines = lastLinesOf(exit);
  const reason = exit.reason && `the VM was ended: ${exit.reason.rawMessage}`;
  turn.log.error(reason ?? "the VM ended by itself", { ...exit });
  turn.run = undefined;
  await endRunAnyway(turn, run);
  const lastWords = lastLines.at(-1) ?? "no last words";
  await enterFailed(turn, reason ?? `the VM ended by itself: ${lastWords}`, lastLines);
}

/** Ends everything of a run that is over. A failure is logged and changes nothing else. */
export async function endRunAnyway({ log }: Turn, run: SandboxRun): Promise<void> {
  try {
    await endRun(run, Deadline.after(endBudgetMs, "ending a VM whose run is over"));
  } catch (cause) {
    log.error("a VM cannot be ended; the next resume or start of the daemon tries again", {
      cause,
    });
  }
}

/**
 * Moves the sandbox to "failed": its VM is gone, and no snapshot has what it did last.
 * @param reason For the caller.
 * @param lastLines The last lines of the console and of the VMM's log.
 */
export async function enterFailed(
  turn: Turn,
  reason: string,
  lastLines: readonly string[],
): Promise<void> {
  turn.base = undefined;
  const { lifetime, startedAtMs } = turn.record;
  await turn.rest(
    { kind: "failed", reason, lastLines },
    { lifetime: rest(lifetime, startedAtMs, Date.now()) },
  );
  turn.events.timed();
}

/** Ends VMs of this sandbox that belong to no known run, such as one that cannot be adopted. */
export async function endStrays({ host, folder, log }: Turn): Promise<void> {
  for (const stray of await host.driver.processesBelow(folder.path)) {
    log.warn("ending a VM that could not be reached", { pid: stray.pid });
    await stray.end(Deadline.after(endBudgetMs, "ending a stray VM"));
  }
}

/** Removes the folders of VM runs. No VM may be running. */
export async function clearRuns({ folder }: Turn): Promise<void> {
  await rm(folder.runs, { recursive: true, force: true });
}

/** The last lines of the guest's console, then those of the VMM that may say why the VM ended. */
export function lastLinesOf({
  consoleTail,
  vmmTail,
}: Pick<VmExit, "consoleTail" | "vmmTail">): readonly string[] {
  const ofVmm = linesOf(vmmTail).filter((line) => !harmlessLine.test(line));
  return [...linesOf(consoleTail), ...ofVmm].slice(-lastLinesMax);
}

function linesOf(text: string): readonly string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}
