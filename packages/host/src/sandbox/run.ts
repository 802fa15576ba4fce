/**
 * A sandbox and the run of its VM: from when on they belong together, what becomes of the sandbox when
 * the VM ends by itself, and what earlier runs have left.
 */
import { rm } from "node:fs/promises";
import { Deadline, ignoreFailure } from "@torpor/std";
import type { VmExit } from "@torpor/vmm";
import { keepLastWords } from "../last-words.ts";
import { rest } from "../lifecycle/lifetime.ts";
import { type SandboxRun, endRun } from "../steps/run.ts";
import type { Turn } from "./writer.ts";

const endBudgetMs = 15_000;
/** LIMIT: of what a VM that ended by itself said last, as far as its record keeps it. */
const lastLinesMax = 20;

/** From here on this is the sandbox's run, until somebody ends it or it ends by itself. */
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

/** Lets go of the VM without ending it. */
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
  if (turn.run !== run || turn.record.state.kind === "removing") return; // ended by us
  const lastLines = [...linesOf(exit.consoleTail), ...linesOf(exit.vmmTail)].slice(-lastLinesMax);
  const reason = exit.reason && `the VM was ended: ${exit.reason.rawMessage}`;
  turn.log.error(reason ?? "the VM ended by itself", { ...exit });
  turn.run = undefined;
  await endRunAnyway(turn, run);
  const lastWords = lastLines.at(-1) ?? "no last words";
  await enterFailed(turn, reason ?? `the VM ended by itself: ${lastWords}`, lastLines);
}

/** What is over is over, whatever is left of it. */
export async function endRunAnyway({ log }: Turn, run: SandboxRun): Promise<void> {
  try {
    await endRun(run, Deadline.after(endBudgetMs, "ending a VM whose run is over"));
  } catch (cause) {
    log.error("a VM cannot be ended; the next resume or start of the daemon tries again", {
      cause,
    });
  }
}

/** There is no VM any more, and no snapshot of what it did last. */
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

/** Ends VMs of this sandbox that no run knows, such as one that cannot be adopted. */
export async function endStrays({ host, folder, log }: Turn): Promise<void> {
  for (const stray of await host.driver.processesBelow(folder.path)) {
    log.warn("ending a VM that could not be reached", { pid: stray.pid });
    await stray.end(Deadline.after(endBudgetMs, "ending a stray VM"));
  }
}

/** Removes the folders of VM runs, and keeps what the last one said; only called while none is running. */
export async function clearRuns({ folder, record }: Turn): Promise<void> {
  await ignoreFailure("a full disk keeps none", keepLastWords(folder, record.generation));
  await rm(folder.runs, { recursive: true, force: true });
}

function linesOf(text: string): readonly string[] {
  return text
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line !== "");
}
