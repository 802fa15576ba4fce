/**
 * The memory of ten idle sandboxes of one template, against ten times the memory of one.
 *
 * The guest's memory is counted by PSS, which splits a shared page among the processes that map it.
 * The emulator's cache of translated code is private by nature and bounded; it is shown separately.
 */
import { readFile } from "node:fs/promises";
import type { Daemon } from "@torpor/host";
import { createSandbox, openBenchDaemon } from "./bench-daemon.ts";
import { type Row, atMost } from "./row.ts";

const count = 10;

interface Cost {
  readonly guestMiB: number;
  readonly otherMiB: number;
}

/** Measures one and then ten sandboxes. */
export async function measureDensity(cacheFolder: string): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const daemon = await openBenchDaemon(cacheFolder, undo);
  undo.defer(async () => {
    for (const { record } of daemon.sandboxes.all()) await daemon.sandboxes.remove(record.id);
  });
  await createSandbox(daemon);
  const one = await measure(daemon);
  while (daemon.sandboxes.all().length < count) await createSandbox(daemon);
  const ten = await measure(daemon);
  return [
    { row: "guest memory of one sandbox", value: one.guestMiB, unit: "MiB PSS" },
    { row: "guest memory of ten sandboxes", value: ten.guestMiB, unit: "MiB PSS" },
    { row: "VMM and code cache, each of ten", value: ten.otherMiB / count, unit: "MiB PSS" },
    atMost(
      "ten sandboxes against ten times one",
      ten.guestMiB / one.guestMiB / count,
      "of it",
      0.4,
    ),
  ];
}

async function measure(daemon: Daemon): Promise<Cost> {
  let guestKiB = 0;
  let otherKiB = 0;
  for (const { run } of daemon.sandboxes.all()) {
    if (run === undefined) throw new Error("a sandbox is not running");
    const { pid, memoryPath } = run.vm.handle;
    const smaps = await readFile(`/proc/${pid}/smaps`, "utf8");
    for (const mapping of smaps.split(/^(?=[0-9a-f]+-[0-9a-f]+ )/m)) {
      const pssKiB = Number(/^Pss:\s+(\d+) kB$/m.exec(mapping)?.[1] ?? 0);
      if (mapping.split("\n")[0]?.endsWith(memoryPath) === true) guestKiB += pssKiB;
      else otherKiB += pssKiB;
    }
  }
  return { guestMiB: guestKiB / 1024, otherMiB: otherKiB / 1024 };
}
