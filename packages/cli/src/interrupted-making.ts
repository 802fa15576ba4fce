/**
 * Makes sandboxes for a verb: either the verb's caller learns their ids, or they are removed.
 *
 * An interrupt does not cancel what the daemon makes, so the CLI waits for it: a sandbox whose id
 * nobody learns could not be removed, and would run for ever.
 */
import { TorporError } from "@torpor/std";
import { type Interrupt, interruptible } from "./interrupt.ts";
import type { Session } from "./session.ts";

/** How a verb makes sandboxes and reports them. */
export interface Making<T> {
  readonly make: () => Promise<T>;
  readonly idsOf: (made: T) => readonly string[];
  /** Prints the ids. */
  readonly tell: (made: T) => Promise<void>;
}

/**
 * Makes sandboxes and reports them. Sets the session's exit code when it was interrupted. @throws
 * what `make` and `tell` throw
 */
export async function makeSandboxes<T>(session: Session, making: Making<T>): Promise<void> {
  const { output } = session;
  await session.daemon();
  const work = async (interrupt: Interrupt): Promise<number> => {
    const made = await waitToRemove(session, interrupt, making.make());
    await using undo = new AsyncDisposableStack();
    for (const id of making.idsOf(made)) undo.defer(() => removeQuietly(session, id));
    interrupt.throwIfHappened();
    await making.tell(made);
    // Ids that could not be written were not reported.
    await output.settled();
    interrupt.throwIfHappened();
    undo.move();
    return session.exitCode;
  };
  const sayLeft = (): void => output.note("What was being made may stay: see `torpor ls`.");
  session.exitCode = await interruptible(output, work, sayLeft);
}

/** Waits to the end, interrupted or not; an interrupt makes it say why it still waits. */
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

/** Removes a sandbox. A failure is reported, but does not replace the verb's result. */
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
