/**
 * A VM may end while a step waits for it: the wait then ends too, and the step fails with the
 * reason why the VM ended.
 */
import { Deadline, type Step, TorporError, assert } from "@torpor/std";
import type { Vm, VmExit } from "@torpor/vmm";

/**
 * LIMIT: a closed control socket is the first sign; the exits of the process and its pager tell
 * why.
 */
const exitBudgetMs = 5_000;

/**
 * Wraps a step so that it fails as soon as its VM ends.
 * @throws the reason why the VM was ended, such as snapshot.corrupt; vmm.exited if it ended by
 *   itself
 */
export function whileVmLives<Context extends { readonly vm?: Vm }>(
  run: Step<Context>["run"],
): Step<Context>["run"] {
  return async (context, deadline, undo) => {
    const { vm } = context;
    assert(vm !== undefined, "the VM is there");
    const ended = vm.exited.then((exit) => Promise.reject(endedEarly(exit)));
    try {
      await Promise.race([run(context, deadline, undo), ended]);
    } catch (cause) {
      throw await reasonOf(vm, cause);
    }
  };
}

async function reasonOf(vm: Vm, cause: unknown): Promise<unknown> {
  if (!TorporError.is(cause) || cause.code !== "vmm.exited") return cause;
  const deadline = Deadline.after(exitBudgetMs, "asking why the VM ended");
  const exit = await deadline.race(vm.exited).catch(() => undefined);
  return exit?.reason === undefined ? cause : endedEarly(exit);
}

function endedEarly({ reason, consoleTail, vmmTail }: VmExit): TorporError {
  const lastLine = `${consoleTail}\n${vmmTail}`.trim().split("\n").at(-1) ?? "";
  const why = reason?.rawMessage ?? lastLine;
  return new TorporError(
    reason?.code ?? "vmm.exited",
    `the VM ended before its guest was ready: ${why}`,
    { cause: reason },
  );
}
