/**
 * How a sandbox is removed, whatever its state: the daemon ends its VM, deletes its folder and
 * deletes its record. That order lets the next daemon finish what a crash interrupted. Each step
 * may run twice. The layers that the sandbox was built on are garbage-collected once nothing else
 * needs them.
 */
import { rm } from "node:fs/promises";
import type { SandboxFolder } from "@torpor/storage";
import type { Deadline, Step } from "@torpor/std";
import type { SandboxRecords } from "../records/sandbox-records.ts";
import { type SandboxRun, endRun } from "./run.ts";

/** Input of the steps of a removal. */
export interface RemoveContext {
  readonly sandboxId: string;
  readonly folder: SandboxFolder;
  readonly records: SandboxRecords;
  /** Undefined when the daemon knows no VM of the sandbox. */
  readonly run: SandboxRun | undefined;
  /** Ends VMs of this sandbox that belong to no known run. */
  readonly endStrays: () => Promise<void>;
}

/** The steps of a removal, in order. */
export const removeSteps: readonly Step<RemoveContext>[] = [
  { name: "end VM", budgetMs: 15_000, run: endVm },
  { name: "delete files", budgetMs: 60_000, run: deleteFiles },
  { name: "forget", budgetMs: 5_000, run: forget },
];

async function endVm({ run, endStrays }: RemoveContext, deadline: Deadline): Promise<void> {
  if (run === undefined) await endStrays();
  else await endRun(run, deadline);
}

async function deleteFiles({ folder }: RemoveContext): Promise<void> {
  await rm(folder.path, { recursive: true, force: true });
}

async function forget({ records, sandboxId }: RemoveContext): Promise<void> {
  await records.remove(sandboxId);
}
