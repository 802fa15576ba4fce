/**
 * Removes everything of a sandbox, whatever its state. The record says "removing" until it is
 * deleted itself, so that the next daemon finishes what a crash interrupted.
 */
import { type StepTiming, TorporError, runSteps } from "@torpor/std";
import { removeSteps } from "../steps/remove.ts";
import { wokenRun } from "../steps/wake.ts";
import { endStrays } from "./run.ts";
import type { Turn } from "./writer.ts";

/**
 * Ends the VM and deletes the files and the record. A failed removal can be repeated.
 * @throws whatever the steps of a removal throw, with `effect: "maybe"`
 */
export async function remove(turn: Turn): Promise<readonly StepTiming[]> {
  const { kind } = turn.record.state;
  // `rest` may store later: the next daemon removes a sandbox that is "creating" just the same.
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
  // Kept until here, because the repeat of a failed removal has to end the VM too.
  turn.run = undefined;
  turn.spare = undefined;
  turn.isRemoved = true;
  turn.letGoOfLayers();
  turn.events.timed();
  turn.events.removed();
  return timings;
}

/** No step of a removal is undone: whatever is left, the sandbox can then only be removed. */
function halfRemoved(cause: unknown): TorporError {
  const { code, rawMessage, details } = TorporError.from(cause, "internal");
  return new TorporError(code, rawMessage, {
    cause,
    effect: "maybe",
    details,
    advice: "Remove it again; the next start of the daemon does so, too.",
  });
}
