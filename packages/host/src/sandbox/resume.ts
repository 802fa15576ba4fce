/**
 * A sandbox goes on from its newest snapshot, or from the one before it. The record says "resuming"
 * meanwhile; if that fails the sandbox is what it was, paused or failed.
 */
import { TorporError } from "@torpor/std";
import { type Lifetime, begin, setTimeoutMs } from "../lifecycle/lifetime.ts";
import { type Command, type Outcome, unchanged } from "./command.ts";
import { endStrays } from "./run.ts";
import { extendTimeoutMs } from "./settings.ts";
import { goOnIfHeld } from "./stall.ts";
import { type RecordChange, newWakeContext, wake } from "./wake.ts";
import type { Turn } from "./writer.ts";

export interface ResumeCommand extends Command {
  /**
   * From the resume on, in place of what was left; null: for ever. One that runs already gets at least
   * this long, and keeps what it has if that is more.
   */
  readonly timeoutMs?: number | null | undefined;
  /** What happens when the time of the run is over, from now on. */
  readonly onTimeout?: "kill" | "pause" | undefined;
  /** Go on from the snapshot before the newest one, which is given up. */
  readonly previous?: boolean | undefined;
}

export async function resume(turn: Turn, command: ResumeCommand): Promise<Outcome> {
  const before = turn.record;
  const previous = command.previous === true;
  const snapshotId = previous ? before.previousSnapshotId : before.snapshotId;
  if (snapshotId === null) {
    throw new TorporError("sandbox.wrongState", "there is no snapshot before the newest one");
  }
  const context = await newWakeContext(turn, "resume", snapshotId, 1).catch((cause: unknown) => {
    throw withWayBack(turn, cause, previous);
  });
  try {
    await endStrays(turn);
    return await wake(turn, "resume", context, changeOf(before.lifetime, command));
  } catch (cause) {
    await turn.rest(before.state.kind === "failed" ? before.state : { kind: "paused" });
    turn.log.warn("resume failed and was undone", { cause, before: before.state.kind });
    throw withWayBack(turn, cause, previous);
  }
}

/** The repeat of a resume: the sandbox runs already. */
export async function stayAwake(turn: Turn, command: ResumeCommand): Promise<Outcome> {
  if (command.previous === true) throw notAsleep(turn);
  if (turn.run !== undefined) await goOnIfHeld(turn, turn.run);
  if (command.timeoutMs !== undefined) await extendTimeoutMs(turn, command.timeoutMs);
  return unchanged;
}

function changeOf(
  lifetime: Lifetime,
  { previous, timeoutMs, onTimeout }: ResumeCommand,
): RecordChange {
  return (nowMs) => {
    const timed =
      timeoutMs === undefined
        ? begin(lifetime, nowMs)
        : setTimeoutMs(lifetime, timeoutMs, nowMs, nowMs);
    return {
      ...(previous === true ? { previousSnapshotId: null } : {}),
      lifetime: { ...timed, onTimeout: onTimeout ?? lifetime.onTimeout },
    };
  };
}

/** One that goes on was not asked to: what it has done since would be lost without a word. */
function notAsleep({ record: { id } }: Turn): TorporError {
  return new TorporError("sandbox.wrongState", "the sandbox is running and cannot go back", {
    advice: `Pause it first: \`torpor resume --previous ${id}\` then goes back to the snapshot before that pause.`,
  });
}

/** A damaged snapshot is not the end of a sandbox that has an older one. */
function withWayBack({ record }: Turn, cause: unknown, triedPrevious: boolean): unknown {
  const damaged = TorporError.is(cause) && cause.code === "snapshot.corrupt";
  if (!damaged || triedPrevious || record.previousSnapshotId === null) return cause;
  return new TorporError(cause.code, cause.rawMessage, {
    cause,
    effect: "none",
    advice: `Go back to the pause before with \`torpor resume --previous ${record.id}\`; what came after it is lost.`,
  });
}
