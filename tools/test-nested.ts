/**
 * Runs the tests that need KVM on a machine without it: in a Debian under QEMU that emulates a
 * processor with virtualization, see test/nested.
 *
 *     npm run test:nested                          QEMU, and Firecracker if FIRECRACKER_BIN names one
 *     npm run test:nested -- qemu                  one of them
 *     npm run test:nested -- qemu test/vm/hooks    other files than the usual ones
 *
 * Guests are emulated twice, so it takes about an hour. The tests' output is passed on as it comes;
 * the last line has the counts. With FIRECRACKER_BIN, JAILER_BIN names its jailer.
 */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { TerminalProgress, baseImage, ensureDebianPackages } from "@torpor/setup";
import { Deadline, TorporError } from "@torpor/std";
import { createOverlay, defaultCacheFolder } from "@torpor/storage";
import { installedFirecracker } from "@torpor/vmm";
import { ConsoleReader } from "../test/nested/console.ts";
import { runEmulatedMachine } from "../test/nested/emulated-machine.ts";
import { machineDiskBytes, prepareMachine } from "../test/nested/machine.ts";
import { vmms, workScriptOf } from "../test/nested/plan.ts";
import { keepResults } from "../test/nested/results.ts";
import { buildWorkDisk, ensureCacheDisk } from "../test/nested/work-disk.ts";

const checkout = join(import.meta.dirname, "..");
const diskBudgetMs = 10 * 60_000;
const runBudgetMs = 3 * 60 * 60_000;

const words = process.argv.slice(2);
const named = vmms.filter((vmm) => words.includes(vmm));
const files = words.filter((word) => !vmms.some((vmm) => vmm === word));
const hasFirecracker = process.env["FIRECRACKER_BIN"] !== undefined;
const wanted = named.length > 0 ? named : vmms;
const chosen = wanted.filter((vmm) => vmm !== "firecracker" || hasFirecracker);

const stop = new AbortController();
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
  process.on(signal, () => stop.abort(new TorporError("canceled", `${signal} came`)));
}
const reader = new ConsoleReader();
let problem: TorporError | undefined;
try {
  if (chosen.length > 0) await runAll();
} catch (cause) {
  problem = TorporError.from(stop.signal.aborted ? stop.signal.reason : cause, "internal");
}
for (const [vmm, { version, tests }] of reader.results) await keepResults(vmm, version, tests);
process.exit(report() ? 0 : 1);

async function runAll(): Promise<void> {
  const cacheFolder = defaultCacheFolder();
  const progress = new TerminalProgress(process.stdout);
  await ensureDebianPackages({ progress });
  const base = await baseImage(cacheFolder, progress);
  const machine = await prepareMachine(cacheFolder, progress);
  await using undo = new AsyncDisposableStack();
  const folder = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-nested-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
  const [topPath, workPath] = [join(folder, "top.qcow2"), join(folder, "work.raw")];
  await createOverlay(topPath, machineDiskBytes);
  await progress.step("Disk with the work", () =>
    buildWorkDisk(
      {
        ...{ outPath: workPath, checkout },
        layers: [base.kernelPath, base.diskPath].map((path) => dirname(path)),
        programs: hasFirecracker ? Object.values(installedFirecracker()) : [],
        script: workScriptOf({ checkout, vmms: chosen, files }),
      },
      Deadline.after(diskBudgetMs, "making the disk with the work"),
    ),
  );
  const cachePath = join(cacheFolder, "nested-cache.raw");
  await ensureCacheDisk(cachePath, Deadline.after(diskBudgetMs, "making the disk of the cache"));
  stop.signal.throwIfAborted();
  const onLine = (line: string): void => {
    process.stdout.write(`${line}\n`);
    reader.read(line);
  };
  const { signal } = stop;
  await runEmulatedMachine(
    { machine, topPath, workPath, cachePath, onLine, signal },
    Deadline.after(runBudgetMs, "the machine with KVM"),
  );
}

/** Prints the counts. @returns whether something passed and nothing failed */
function report(): boolean {
  const sum = { passed: 0, failed: 0, skipped: 0 };
  for (const vmm of wanted) {
    const result = reader.results.get(vmm);
    if (!chosen.includes(vmm)) {
      process.stdout.write(`\n${vmm}: not run, because FIRECRACKER_BIN names none`);
      continue;
    }
    // A run that was interrupted, or counted nothing, has not passed.
    const { passed = 0, failed = 0, skipped = 0 } = result ?? {};
    const isWhole = result?.exitCode === 0 || failed > 0;
    sum.passed += passed;
    sum.failed += isWhole ? failed : failed + 1;
    sum.skipped += skipped;
    const counts = `${passed} passed, ${failed} failed, ${skipped} skipped`;
    process.stdout.write(`\n${vmm}: ${counts}${isWhole ? "" : ", and it did not end well"}`);
  }
  if (problem !== undefined) {
    process.stdout.write(`\n${problem.message}\n  next: ${problem.advice}`);
  }
  process.stdout.write(`\n${sum.skipped} skipped\n${sum.passed} passed, ${sum.failed} failed\n`);
  return sum.passed > 0 && sum.failed === 0 && problem === undefined;
}
