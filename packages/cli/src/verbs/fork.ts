/** `torpor fork`: new sandboxes that begin at this instant of another. */
import type { Command } from "commander";
import { TorporError } from "@torpor/std";
import type { Forked } from "../daemon-answers.ts";
import { makeSandboxes } from "../interrupted-making.ts";
import { type LifetimeOptions, addLifetimeOptions, lifetimeOf } from "../lifetime-options.ts";
import { timingRows } from "../server-timing.ts";
import type { Session } from "../session.ts";
import { wholeNumber } from "../usage.ts";

interface ForkOptions extends LifetimeOptions {
  readonly count: number;
  readonly timing?: boolean;
}

/** Adds `torpor fork` to the program. */
export function addFork(program: Command, session: Session): void {
  const command = program
    .command("fork")
    .description("make sandboxes that go on from this instant of another; prints their ids")
    .argument("<id>", "sandbox, by the first characters of its id")
    .option("--count <n>", "how many", wholeNumber(1), 1);
  addLifetimeOptions(command)
    .option("--timing", "print how long saving the first one took, to standard error")
    .option("--json", "print an array of {id} and {error}")
    .addHelpText(
      "after",
      `
The first one may run or sleep, and goes on doing so. The exit code is 1 when a child could not
be made; the others are there, and their ids are printed.

Examples:
  torpor fork ID
  for CHILD in $(torpor fork ID --count 3 --timeout 1h); do torpor exec $CHILD -- ./try.sh; done`,
    )
    .action(async (id: string, options: ForkOptions) => fork(session, id, options));
}

async function fork(session: Session, wanted: string, options: ForkOptions): Promise<void> {
  const { output, client } = session;
  const { id } = await session.find(wanted);
  await makeSandboxes(session, {
    make: () => output.busy(`forking ${id}`, client.fork(id, options.count, lifetimeOf(options))),
    idsOf: ({ children }) => children.filter((child) => typeof child === "string"),
    tell: async (forked) => tell(session, forked, options),
  });
}

function tell(session: Session, { children, timings }: Forked, options: ForkOptions): void {
  const { output } = session;
  const failures = children.filter((child) => TorporError.is(child));
  if (failures.length > 0) session.exitCode = 1;
  if (session.asJson) {
    output.printJson(
      children.map((child) => (TorporError.is(child) ? { error: child.toBody() } : { id: child })),
    );
    return;
  }
  for (const child of children) if (!TorporError.is(child)) output.print(child);
  for (const failure of failures) session.fail(failure);
  if (options.timing === true) output.noteTable(timingRows(timings));
}
