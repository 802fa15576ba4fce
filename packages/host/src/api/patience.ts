/**
 * How long a client waits for a sandbox: E2B's clients give up after 60 s, so the daemon answers
 * before that, even if only to say that it took too long.
 */
import { Deadline, ignoreFailure } from "@torpor/std";

/** The time the daemon takes at most before it answers. */
export const defaultAnswerMsMax = 58_000;

/**
 * Awaits work for a limited time; the work itself continues.
 * @param giveBack Receives a result that came too late for the answer, to undo it.
 * @throws deadline.exceeded; an error of the work that came in time
 */
export async function answerInTime<T>(
  what: string,
  answerMsMax: number,
  work: Promise<T>,
  giveBack: (late: T) => Promise<unknown> = () => Promise.resolve(),
): Promise<T> {
  try {
    return await Deadline.after(answerMsMax, what).race(work);
  } catch (cause) {
    // Work that failed has no result to give back.
    void ignoreFailure("nobody waits for it", work.then(giveBack));
    throw cause;
  }
}
