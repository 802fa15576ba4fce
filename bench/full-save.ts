/**
 * QEMU's own save of a guest: vCPUs stopped, all memory and devices written to a file by `migrate`,
 * vCPUs released. By default QEMU limits its bandwidth.
 */
import { join } from "node:path";
import { Deadline, parseObject } from "@torpor/std";
import { QmpClient, runFiles } from "@torpor/vmm";

const pollMs = 2;
const saveBudgetMs = 120_000;
/** QEMU's default, from its documentation of `migrate-set-parameters`. */
export const defaultBytesPerSecond = 128 * 2 ** 20;
/** A bandwidth that no machine reaches. */
export const unlimitedBytesPerSecond = 2 ** 40;

/** Saves the VM whose run folder this is; the guest then continues. */
export async function saveWholeMemory(
  runFolder: string,
  path: string,
  bytesPerSecond: number,
): Promise<void> {
  const deadline = Deadline.after(saveBudgetMs, "QEMU's own save");
  const control = join(runFolder, runFiles.control);
  const qmp = await QmpClient.connect(control, () => true, deadline);
  const isSaved = async (): Promise<boolean> => {
    const said = parseObject(await qmp.execute("query-migrate", {}, deadline), "query-migrate");
    const status = String(said["status"]);
    if (status === "failed") throw new Error(`migrate: ${String(said["error-desc"])}`);
    return status === "completed";
  };
  await qmp.execute("migrate-set-parameters", { "max-bandwidth": bytesPerSecond }, deadline);
  await qmp.execute("stop", {}, deadline);
  await qmp.execute("migrate", { uri: `file:${path}` }, deadline);
  while (!(await isSaved())) {
    deadline.check();
    await deadline.sleep(pollMs);
  }
  await qmp.execute("cont", {}, deadline);
  qmp.close();
  await qmp.closed;
}
