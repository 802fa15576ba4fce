/**
 * Cleans up what an earlier daemon left and no record names: it crashed between creating a VM or a
 * folder and writing the record. Runs once, before any request is accepted.
 */
import { mkdir, readdir, rm } from "node:fs/promises";
import { join } from "node:path";
import { Deadline } from "@torpor/std";
import { SandboxFolder, stateFiles } from "@torpor/storage";
import { isSameProcess } from "@torpor/vmm";
import type { HostContext } from "./host-context.ts";
import type { SandboxRecord } from "./records/sandbox-records.ts";

const endBudgetMs = 10_000;

/**
 * Ends VM processes that none of these records claims, such as one started just before a crash. A
 * record claims only the process that it names, and not another one that has its pid by now.
 */
export async function endStrayVms(
  {
    stateFolder,
    driver,
    log,
  }: Pick<HostContext, "stateFolder" | "log"> & {
    readonly driver: Pick<HostContext["driver"], "processesBelow">;
  },
  records: readonly Pick<SandboxRecord, "state">[],
): Promise<void> {
  const claimed = records.flatMap(({ state }) => ("vm" in state ? [state.vm] : []));
  for (const stray of await driver.processesBelow(join(stateFolder, stateFiles.sandboxes))) {
    if (claimed.some((vm) => isSameProcess(vm, stray))) continue;
    log.warn("ending a VM that belongs to no sandbox", { pid: stray.pid });
    await stray.end(Deadline.after(endBudgetMs, "ending a stray VM"));
  }
}

/** Removes the folders of all sandboxes that `isKnown` does not know. */
export async function removeStrayFolders(
  { stateFolder, log }: HostContext,
  isKnown: (sandboxId: string) => boolean,
): Promise<void> {
  const folder = join(stateFolder, stateFiles.sandboxes);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const name of await readdir(folder)) {
    if (isKnown(name)) continue;
    log.warn("removing the folder of a sandbox that does not exist", { name });
    await rm(new SandboxFolder(stateFolder, name).path, { recursive: true });
  }
}
