/** `torpor ls` and `torpor info`: what there is. */
import type { Command } from "commander";
import type { SandboxInfo } from "../daemon-answers.ts";
import { shownAge, shownBytes } from "../output.ts";
import type { Session } from "../session.ts";

interface ListOptions {
  readonly quiet?: boolean;
}

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
  program
    .command("info")
    .description("show one sandbox")
    .argument("<id>", "sandbox, by the first characters of its id")
    .option("--json", "print it as JSON")
    .action(async (id: string) => {
      const sandbox = await session.find(id);
      if (session.asJson) session.output.printJson(sandbox);
      else printInfo(session, sandbox);
    });
}

function printList({ output }: Session, sandboxes: readonly SandboxInfo[]): void {
  if (sandboxes.length === 0) {
    output.note("No sandboxes. `torpor create` makes one.");
    return;
  }
  const now = Date.now();
  output.printTable(
    ["ID", "STATE", "TEMPLATE", "AGE", "ON DISK", "METADATA"],
    sandboxes.map((sandbox) => [
      sandbox.id,
      sandbox.state,
      sandbox.template,
      shownAge(sandbox.createdAtMs, now),
      sandbox.snapshot === null ? "-" : shownBytes(snapshotBytes(sandbox.snapshot)),
      shownPairs(sandbox.metadata),
    ]),
  );
}

function snapshotBytes({ memoryBytes, diskBytes }: NonNullable<SandboxInfo["snapshot"]>): number {
  return memoryBytes + diskBytes;
}

function printInfo({ output }: Session, sandbox: SandboxInfo): void {
  const { snapshot } = sandbox;
  const reason = sandbox.reason === null ? "" : `: ${sandbox.reason}`;
  output.printTable(
    ["id", sandbox.id],
    [
      ["state", `${sandbox.state}${reason}`],
      ["template", `${sandbox.template} (${sandbox.templateId})`],
      ["generation", String(sandbox.generation)],
      ["VM process", sandbox.pid === null ? "none" : String(sandbox.pid)],
      ["created", shownTime(sandbox.createdAtMs)],
      ["started", sandbox.startedAtMs === null ? "never" : shownTime(sandbox.startedAtMs)],
      ["metadata", shownPairs(sandbox.metadata) || "none"],
      ["snapshot", snapshot === null ? "none" : shownTime(snapshot.createdAtMs)],
      ...(snapshot === null
        ? []
        : [
            ["  generation", String(snapshot.generation)],
            ["  memory", shownBytes(snapshot.memoryBytes)],
            ["  disk", shownBytes(snapshot.diskBytes)],
          ]),
    ],
  );
}

function shownPairs(pairs: Readonly<Record<string, string>>): string {
  return Object.entries(pairs)
    .map(([key, value]) => `${key}=${value}`)
    .join(" ");
}

function shownTime(ms: number): string {
  return new Date(ms).toISOString();
}
