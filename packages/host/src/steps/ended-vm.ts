/** A VM that ends while a step waits for it: nobody waits on, and the step fails for what ended the VM. */
import { Deadline, type Step, TorporError, assert } from "@torpor/std";
import type { Vm, VmExit } from "@torpor/vmm";

/** LIMIT: a control socket that closes is the first sign; the process and its pager have last words. */
const exitBudgetMs = 5_000;

/** @throws what it was ended for, such as snapshot.corrupt; vmm.exited when it ended by itself */
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
