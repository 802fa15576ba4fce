/** `torpor rm`: removes sandboxes with everything that is stored of them. */
import type { Command } from "commander";
import type { SandboxInfo } from "../daemon-answers.ts";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { type Session, forEach } from "../session.ts";
import { usageError } from "../usage.ts";

interface RemoveOptions {
  readonly all?: boolean;
}

/** Adds `torpor rm` to the program. */
export function addRemove(program: Command, session: Session): void {
  program
    .command("rm")
    .description("remove sandboxes; their forks and the snapshots taken of them stay")
    .argument("[id...]", "sandboxes, by the first characters of their ids")
    .option("--all", "remove every sandbox")
    .option("--json", "print the removed ids as JSON")
    .action(async (ids: readonly string[], options: RemoveOptions) =>
      remove(session, ids, options),
    );
}

async function remove(
  session: Session,
  ids: readonly string[],
  options: RemoveOptions,
): Promise<void> {
  const { output } = session;
  const chosen = await choose(session, ids, options);
  const removed: string[] = [];
  const work = async (interrupt: Interrupt): Promise<number> => {
    await forEach(session, interrupt, chosen, async ({ id }) => {
      await session.awaitDaemon(interrupt, `removing ${id}`, session.client.remove(id));
      removed.push(id);
      if (!session.asJson) output.print(id);
    });
    return 0;
  };
  try {
    session.exitCode = await interruptible(output, work);
  } finally {
    if (session.asJson) output.printJson(removed);
  }
}

async function choose(
  session: Session,
  ids: readonly string[],
  { all = false }: RemoveOptions,
): Promise<readonly SandboxInfo[]> {
  if (all === ids.length > 0) {
    throw usageError(
      all ? "--all stands alone, but ids are given too" : "there is no sandbox to remove",
      "Give ids, or --all for every sandbox.",
    );
  }
  return all ? await (await session.daemon()).list() : await session.findAll(ids);
}
