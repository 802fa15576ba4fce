/** `torpor ls`: the list of sandboxes. */
import type { Command } from "commander";
import type { SandboxInfo } from "../daemon-answers.ts";
import { shownEndShort } from "../lifetime-text.ts";
import { shownAge, shownBytes, shownPairs } from "../output.ts";
import type { Session } from "../session.ts";

interface ListOptions {
  readonly quiet?: boolean;
}

/** Adds `torpor ls` to the program. */
export function addList(program: Command, session: Session): void {
  program
    .command("ls")
    .description("list the sandboxes")
    .option("-q, --quiet", "print ids only")
    .option("--json", "print the list as JSON")
    .action(async (options: ListOptions) => {
      const sandboxes = await (await session.daemon()).list();
      if (session.asJson) session.output.printJson(sandboxes);
      else if (options.quiet === true) for (const { id } of sandboxes) session.output.print(id);
      else printList(session, sandboxes);
    });
}

function printList({ output }: Session, sandboxes: readonly SandboxInfo[]): void {
  if (sandboxes.length === 0) {
    output.note("No sandboxes. `torpor create` makes one.");
    return;
  }
  const now = Date.now();
  output.printTable(
    ["ID", "STATE", "TEMPLATE", "AGE", "ENDS", "ON DISK", "METADATA"],
    sandboxes.map((sandbox) => [
      sandbox.id,
      sandbox.state,
      sandbox.template,
      shownAge(sandbox.createdAtMs, now),
      shownEndShort(sandbox, now),
      sandbox.snapshot === null ? "-" : shownBytes(snapshotBytes(sandbox.snapshot)),
      shownPairs(sandbox.metadata),
    ]),
  );
}

function snapshotBytes({ memoryBytes, diskBytes }: NonNullable<SandboxInfo["snapshot"]>): number {
  return memoryBytes + diskBytes;
}
