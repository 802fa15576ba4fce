/**
 * How a sandbox is removed, in whatever state it is: its VM is ended, its folder deleted, its record
 * forgotten, in that order, so that a crash in between is finished by the next start of the daemon.
 * Each step may run twice. What it stood upon is collected once nobody else stands upon it.
 */
import { rm } from "node:fs/promises";
import type { SandboxFolder } from "@torpor/storage";
import type { Deadline, Step } from "@torpor/std";
import type { SandboxRecords } from "../records/sandbox-records.ts";
import { type SandboxRun, endRun } from "./run.ts";

export interface RemoveContext {
  readonly sandboxId: string;
  readonly folder: SandboxFolder;
  readonly records: SandboxRecords;
  /** Undefined when no VM is known. */
  readonly run: SandboxRun | undefined;
  /** Ends VMs of this sandbox that no run knows. */
  readonly endStrays: () => Promise<void>;
}

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
