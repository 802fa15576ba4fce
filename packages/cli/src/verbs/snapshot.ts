/** `torpor snapshot`: instants of sandboxes that other sandboxes are made from. */
import type { Command } from "commander";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { shownAge } from "../output.ts";
import type { DaemonClient } from "../daemon-client.ts";
import { type Session, forEach, isMissing } from "../session.ts";
import { unknownSnapshot } from "../unknown-name.ts";
import { wholeNumber } from "../usage.ts";

/** Adds `torpor snapshot` and its parts to the program. */
export function addSnapshot(program: Command, session: Session): void {
  const snapshot = program
    .command("snapshot")
    .usage("[create] <id> [name]")
    .helpCommand(false)
    .description("keep an instant of a sandbox to make others from")
    .addHelpText(
      "after",
      `
Examples:
  torpor snapshot ID ready
  torpor create --template ready
  torpor snapshot rm ready`,
    );
  snapshot
    .command("create", { isDefault: true })
    .description("take a snapshot of a sandbox that runs or sleeps, and print its id")
    .argument("<id>", "sandbox, by the first characters of its id")
    .argument("[name]", "a name for it, taken from whichever has it now")
    .option("--json", "print the snapshot as JSON")
    .action(async (id: string, name: string | undefined) => create(session, id, name));
  snapshot
    .command("ls")
    .description("list the snapshots")
    .option("--json", "print the list as JSON")
    .action(async () => list(session));
  snapshot
    .command("rm")
    .description("remove snapshots; sandboxes made from them stay whole")
    .argument("<snapshot...>", "names or ids")
    .option("--json", "print what was removed as JSON")
    .action(async (references: readonly string[]) => remove(session, references));
  snapshot
    .command("pool")
    .description("keep sandboxes of a snapshot ready, so that create takes one at once")
    .argument("<snapshot>", "name or id")
    .argument("<count>", "how many; each holds a VM process in memory", wholeNumber(0))
    .action(async (reference: string, count: number) => setPool(session, reference, count));
}

async function create(session: Session, wanted: string, name: string | undefined): Promise<void> {
  const { output, client } = session;
  const { id: sandboxId } = await session.find(wanted);
  session.exitCode = await interruptible(output, async (interrupt) => {
    // An interrupt comes too late to undo this: another snapshot may have had the name before.
    const snapshot = await output.busy(
      `taking a snapshot of ${sandboxId}`,
      client.takeSnapshot(sandboxId, name),
    );
    if (session.asJson) output.printJson(snapshot);
    else output.print(snapshot.id);
    await output.settled();
    const next = interrupt.happened
      ? `Snapshot ${snapshot.id} is there: \`torpor snapshot rm ${snapshot.id}\` removes it.`
      : `Make sandboxes of it with \`torpor create --template ${name ?? snapshot.id}\`.`;
    if (interrupt.happened || !session.asJson) output.note(next);
    return interrupt.exitCode;
  });
}

async function list(session: Session): Promise<void> {
  const { output } = session;
  const snapshots = await (await session.daemon()).snapshots();
  if (session.asJson) {
    output.printJson(snapshots);
    return;
  }
  if (snapshots.length === 0) {
    output.note("No snapshots. `torpor snapshot ID NAME` takes one.");
    return;
  }
  const now = Date.now();
  output.printTable(
    ["NAME", "ID", "SANDBOX", "AGE", "POOL"],
    snapshots.map(({ name, id, sandboxId, createdAtMs, pool }) => [
      name ?? "-",
      id,
      sandboxId,
      shownAge(createdAtMs, now),
      String(pool),
    ]),
  );
}

async function remove(session: Session, references: readonly string[]): Promise<void> {
  const { output } = session;
  const daemon = await session.daemon();
  const removed: string[] = [];
  const work = async (interrupt: Interrupt): Promise<number> => {
    await forEach(session, interrupt, references, async (reference) => {
      const removal = named(daemon, reference, daemon.removeSnapshot(reference));
      await session.awaitDaemon(interrupt, `removing ${reference}`, removal);
      removed.push(reference);
      if (!session.asJson) output.print(reference);
    });
    return 0;
  };
  try {
    session.exitCode = await interruptible(output, work);
  } finally {
    if (session.asJson) output.printJson(removed);
  }
}

async function setPool(session: Session, reference: string, count: number): Promise<void> {
  const daemon = await session.daemon();
  await named(daemon, reference, daemon.setPool(reference, count));
  const kept =
    count === 0 ? "no sandbox is" : count === 1 ? "1 sandbox is" : `${count} sandboxes are`;
  session.output.print(`${kept} kept ready of ${reference}`);
}

/**
 * Changes a snapshot by its name. @throws what `work` throws, with an explanation where there is
 * none of that name
 */
async function named(daemon: DaemonClient, name: string, work: Promise<void>): Promise<void> {
  try {
    await work;
  } catch (cause) {
    if (!isMissing(cause)) throw cause;
    throw await unknownSnapshot(daemon, name, cause);
  }
}
