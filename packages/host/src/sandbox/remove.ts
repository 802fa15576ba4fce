/**
 * Nothing of a sandbox is to be left, in whatever state it is. The record says "removing" until it is
 * gone itself, so that the next start of the daemon finishes what a crash cut short.
 */
import { type StepTiming, TorporError, runSteps } from "@torpor/std";
import { removeSteps } from "../steps/remove.ts";
import { wokenRun } from "../steps/wake.ts";
import { endStrays } from "./run.ts";
import type { Turn } from "./writer.ts";

export async function remove(turn: Turn): Promise<readonly StepTiming[]> {
  const { kind } = turn.record.state;
  // One that was being made is removed by the next daemon, too, whichever of the two it finds.
  if (kind === "creating") await turn.rest({ kind: "removing" });
  else if (kind !== "removing") await turn.move({ kind: "removing" });
  const context = {
    sandboxId: turn.record.id,
    endStrays: () => endStrays(turn),
    folder: turn.folder,
    records: turn.host.records,
    run: turn.run ?? (turn.spare === undefined ? undefined : wokenRun(turn.spare)),
  };
  const timings = await runSteps(removeSteps, context, turn.stepOptions("remove")).catch(
    (cause: unknown) => {
      throw halfRemoved(cause);
    },
  );
  // Kept until here: the repeat of a removal that failed has to end the VM too.
  turn.run = undefined;
  turn.spare = undefined;
  turn.isRemoved = true;
  turn.letGoOfLayers();
  turn.events.timed();
  turn.events.removed();
  return timings;
}

/** Nothing of a removal is undone: the sandbox can only be removed after it, whatever was left. */
function halfRemoved(cause: unknown): TorporError {
  const { code, rawMessage, details } = TorporError.from(cause, "internal");
  return new TorporError(code, rawMessage, {
    cause,
    effect: "maybe",
    details,
    advice: "Remove it again; the next start of the daemon does so, too.",
  });
}
