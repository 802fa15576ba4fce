/**
 * Resumes a sandbox from its newest snapshot, or from the one before it. Meanwhile the record says
 * "resuming"; if the resume fails the sandbox is what it was before, paused or failed.
 */
import { TorporError } from "@torpor/std";
import { type Lifetime, begin, setTimeoutMs } from "../lifecycle/lifetime.ts";
import { type Command, type Outcome, unchanged } from "./command.ts";
import { endStrays } from "./run.ts";
import { extendTimeoutMs } from "./settings.ts";
import { goOnIfHeld } from "./stall.ts";
import { type RecordChange, newWakeContext, wake } from "./wake.ts";
import type { Turn } from "./writer.ts";

/** Options of a resume. */
export interface ResumeCommand extends Command {
  /**
   * Timeout from the resume on, replacing what was left; null: none. A sandbox that already runs
   * gets at least this long, and keeps what it has if that is more.
   */
  readonly timeoutMs?: number | null | undefined;
  /** Action when the timeout expires, from now on. */
  readonly onTimeout?: "kill" | "pause" | undefined;
  /** Resume from the snapshot before the newest one, and discard the newest. */
  readonly previous?: boolean | undefined;
}

/**
 * Wakes a paused or failed sandbox.
 * @throws sandbox.wrongState if there is no such snapshot, and whatever the steps of a wake throw;
 *   the sandbox is then what it was before
 */
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

/**
 * Handles a resume of a sandbox that already runs: it continues if its VMM held it, and may get
 * more time.
 * @throws sandbox.wrongState when the command asks for the previous snapshot
 */
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

/** A running sandbox does not go back: what it has done since would be lost without a warning. */
function notAsleep({ record: { id } }: Turn): TorporError {
  return new TorporError("sandbox.wrongState", "the sandbox is running and cannot go back", {
    advice: `Pause it first: \`torpor resume --previous ${id}\` then goes back to the snapshot before that pause.`,
  });
}

/**
 * Adds the advice to resume from the previous snapshot when the newest is damaged and there is one.
 */
function withWayBack({ record }: Turn, cause: unknown, triedPrevious: boolean): unknown {
  const damaged = TorporError.is(cause) && cause.code === "snapshot.corrupt";
  if (!damaged || triedPrevious || record.previousSnapshotId === null) return cause;
  return new TorporError(cause.code, cause.rawMessage, {
    cause,
    effect: "none",
    advice: `Go back to the pause before with \`torpor resume --previous ${record.id}\`; what came after it is lost.`,
  });
}
