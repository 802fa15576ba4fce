/** `torpor info`: everything that is known about one sandbox. */
import { stripVTControlCharacters } from "node:util";
import type { Command } from "commander";
import type { PagerInfo, PagerProgress, SandboxInfo } from "../daemon-answers.ts";
import { shownEnd } from "../lifetime-text.ts";
import { shownBytes, shownDuration, shownPairs } from "../output.ts";
import type { Session } from "../session.ts";

type Row = readonly [string, string];

const pageBytes = 4096;
const shownPhase: Readonly<Record<PagerProgress["phase"], string>> = {
  workingSet: "fetching the working set",
  newestLayer: "fetching what the last pause wrote",
  rest: "fetching the rest",
  done: "nothing more is fetched ahead",
};

/** Adds `torpor info` to the program. */
export function addInfo(program: Command, session: Session): void {
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

function printInfo({ output }: Session, sandbox: SandboxInfo): void {
  const { reason, pid, startedAtMs } = sandbox;
  output.printTable(
    ["id", sandbox.id],
    [
      ["state", `${sandbox.state}${reason === null ? "" : `: ${printable(reason)}`}`],
      ["template", `${sandbox.template} (${sandbox.templateId})`],
      ["generation", String(sandbox.generation)],
      ["VM process", pid === null ? "none" : String(pid)],
      ...pagerRows(sandbox.pager),
      ["created", shownTime(sandbox.createdAtMs)],
      ["started", startedAtMs === null ? "never" : shownTime(startedAtMs)],
      ["metadata", shownPairs(sandbox.metadata) || "none"],
      ...lifetimeRows(sandbox, Date.now()),
      ...snapshotRows(sandbox),
    ],
  );
  if (sandbox.lastLines.length === 0) return;
  output.print("last lines");
  for (const line of sandbox.lastLines) output.print(`  ${printable(line)}`);
}

/** None for a VM that maps its memory from a file. */
function pagerRows(pager: PagerInfo | null): readonly Row[] {
  if (pager === null) return [];
  const { pid, progress } = pager;
  if (progress === null) return [["memory", `its pager, process ${pid}, does not answer`]];
  const { phase, presentPages, memoryPages, faults, workingSetPages, remark } = progress;
  const there = `${shownPages(presentPages)} of ${shownPages(memoryPages)} there`;
  return [
    ["memory", `${shownPhase[phase]}; ${there}, ${faults} faults`],
    ["  working set", workingSetPages === 0 ? "none recorded yet" : shownPages(workingSetPages)],
    ...(remark === "" ? [] : ([["  remark", printable(remark)]] satisfies readonly Row[])),
  ];
}

function shownPages(pages: number): string {
  return shownBytes(pages * pageBytes);
}

function lifetimeRows(sandbox: SandboxInfo, nowMs: number): readonly Row[] {
  const { idleTimeoutMs, maxRunMs, missedDeadline } = sandbox;
  return [
    ["ends", shownEnd(sandbox, nowMs)],
    [
      "idle timeout",
      idleTimeoutMs === null
        ? "none"
        : `${shownDuration(idleTimeoutMs)} unused, then it is put to sleep`,
    ],
    [
      "maximum",
      maxRunMs === null
        ? "none"
        : `${shownDuration(maxRunMs)} of running altogether, then it is removed`,
    ],
    ...(missedDeadline === null
      ? []
      : ([["missed", shownMissed(missedDeadline)]] satisfies readonly Row[])),
  ];
}

function shownMissed({ rule, atMs, message }: NonNullable<SandboxInfo["missedDeadline"]>): string {
  return `${rule}, at ${shownTime(atMs)}: ${message}`;
}

function snapshotRows({ id, snapshot, hasPrevious }: SandboxInfo): readonly Row[] {
  if (snapshot === null) return [["snapshot", "none"]];
  const { memoryBytes, memoryLayers, diskBytes, diskLayers } = snapshot;
  const memory = memoryLayers === 0 ? "whole" : shownLayers(memoryLayers);
  return [
    ["snapshot", shownTime(snapshot.createdAtMs)],
    ["  id", snapshot.id],
    ["  generation", String(snapshot.generation)],
    ["  memory", `${shownBytes(memoryBytes)} in the newest, ${memory}`],
    ["  disk", `${shownBytes(diskBytes)}, ${shownLayers(diskLayers)}`],
    ["  before it", hasPrevious ? `one more: \`torpor resume --previous ${id}\`` : "none"],
  ];
}

function shownLayers(count: number): string {
  return count === 1 ? "1 layer" : `${count} layers`;
}

/** The guest chooses this text: it must not move the cursor or colour the terminal. */
function printable(text: string): string {
  return stripVTControlCharacters(text).replaceAll(/\p{Cc}/gu, "");
}

function shownTime(ms: number): string {
  return new Date(ms).toISOString();
}
