/**
 * How long a client is kept waiting for a sandbox: E2B's clients give up after 60 s, so an answer comes
 * before that, also when it is only that it took too long.
 */
import { Deadline, ignoreFailure } from "@torpor/std";

/** What the daemon allows itself. */
export const defaultAnswerMsMax = 58_000;

/**
 * @param giveBack Called with what came too late to be told of.
 * @throws deadline.exceeded, and whatever the work throws in time
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
    // Work that failed by itself has nothing to give back.
    void ignoreFailure("nobody waits for it", work.then(giveBack));
    throw cause;
  }
}
