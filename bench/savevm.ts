/**
 * QEMU's internal snapshots, which it keeps in the qcow2 disk: `savevm` of the human monitor, then
 * the end of QEMU, and a QEMU that is started with `-loadvm`.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { join } from "node:path";
import { Deadline, flush } from "@torpor/std";
import { QmpClient, runFiles } from "@torpor/vmm";
import { endChild, hasEnded } from "./child.ts";
import type { PlainGuest } from "./plain-guest.ts";
import type { SavingTool } from "./saving-tool.ts";

const tag = "bench";
const startBudgetMs = 60_000;
const saveBudgetMs = 120_000;

/** Powers the guest on; `undo` ends it. */
export async function startSavevm(
  { argv, spec }: PlainGuest,
  undo: AsyncDisposableStack,
): Promise<SavingTool> {
  const diskPath = spec.disk.at(-1)?.path ?? "";
  let qemu = await startQemu(argv, spec.runFolder);
  undo.defer(() => qemu.end());
  return {
    save: async () => {
      const printed = await qemu.monitor.executeHuman(`savevm ${tag}`, saveDeadline());
      if (printed !== "") throw new Error(`savevm: ${printed}`);
      await flush(diskPath);
      await qemu.end();
    },
    restore: async () => {
      qemu = await startQemu([...argv, "-loadvm", tag], spec.runFolder);
    },
  };
}

interface Qemu {
  readonly monitor: QmpClient;
  end(): Promise<void>;
}

/** Starts QEMU. It answers once the requested state is loaded and the guest continues. */
async function startQemu(argv: readonly string[], runFolder: string): Promise<Qemu> {
  const child: ChildProcess = spawn("qemu-system-x86_64", argv, {
    stdio: ["ignore", "ignore", "inherit"],
  });
  const monitor = await QmpClient.connect(
    join(runFolder, runFiles.control),
    () => !hasEnded(child),
    Deadline.after(startBudgetMs, "starting QEMU"),
  );
  const end = async (): Promise<void> => {
    await endChild(child, "SIGKILL");
    monitor.close();
  };
  return { monitor, end };
}

function saveDeadline(): Deadline {
  return Deadline.after(saveBudgetMs, "savevm");
}
