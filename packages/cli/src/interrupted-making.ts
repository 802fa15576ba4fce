/**
 * Sandboxes that are made for a verb: the verb's caller learns their ids, or they are removed.
 *
 * An interrupt does not call off what the daemon makes, so it is waited for: one whose id is never
 * learnt could not be removed, and would run for ever.
 */
import { TorporError } from "@torpor/std";
import { type Interrupt, interruptible } from "./interrupt.ts";
import type { Session } from "./session.ts";

export interface Making<T> {
  readonly make: () => Promise<T>;
  readonly idsOf: (made: T) => readonly string[];
  /** Prints the ids. */
  readonly tell: (made: T) => Promise<void>;
}

/** Sets the session's exit code when it was interrupted. @throws what `make` and `tell` throw */
export async function makeSandboxes<T>(session: Session, making: Making<T>): Promise<void> {
  const { output } = session;
  await session.daemon();
  const work = async (interrupt: Interrupt): Promise<number> => {
    const made = await waitToRemove(session, interrupt, making.make());
    await using undo = new AsyncDisposableStack();
    for (const id of making.idsOf(made)) undo.defer(() => removeQuietly(session, id));
    interrupt.throwIfHappened();
    await making.tell(made);
    // What nobody could read was not told.
    await output.settled();
    interrupt.throwIfHappened();
    undo.move();
    return session.exitCode;
  };
  const sayLeft = (): void => output.note("What was being made may stay: see `torpor ls`.");
  session.exitCode = await interruptible(output, work, sayLeft);
}

/** The whole wait, interrupted or not; says then why it lasts. */
export async function waitToRemove<T>(
  { output }: Session,
  interrupt: Interrupt,
  making: Promise<T>,
): Promise<T> {
  const say = (): void => output.note("Interrupted: waiting for what is being made, to remove it.");
  interrupt.signal.addEventListener("abort", say);
  try {
    return await making;
  } finally {
    interrupt.signal.removeEventListener("abort", say);
  }
}

/** A failure to clean up is told, but does not take the place of what the verb returns. */
export async function removeQuietly(session: Session, id: string): Promise<void> {
  try {
    await session.client.remove(id);
  } catch (cause) {
    const error = TorporError.from(cause, "internal");
    if (error.code === "sandbox.notFound") return;
    session.fail(
      new TorporError(error.code, `sandbox ${id} could not be removed: ${error.rawMessage}`, {
        cause,
        effect: error.effect,
        advice: `Try again with \`torpor rm ${id}\`.`,
      }),
    );
  }
}
