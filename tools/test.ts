/**
 * The test command: sets the machine up, then runs every test, and ends with one line of counts.
 *
 *     npm test                     everything
 *     npm test -- unit             tests beside the code, of the repository, and the lifecycle model
 *     npm test -- vm               tests on real VMs
 *     npm test -- safety           those of them that are the matrix of snapshot safety
 *     npm test -- long             tests on real VMs that take long, which no other selection runs
 *     npm test -- e2b              the published E2B clients against a daemon with real VMs
 *     npm test -- packages/std     files whose path starts so
 *
 * Two files run at a time. A test on VMs usually has one guest that computes, and an emulated guest
 * takes one processor: so two tests do not disturb each other where there are two processors.
 */
import { glob } from "node:fs/promises";
import { availableParallelism } from "node:os";
import { join, relative } from "node:path";
import { run } from "node:test";
import { spec } from "node:test/reporters";
import { inspect } from "node:util";
import { TerminalProgress, setUp } from "@torpor/setup";
import { TorporError, budgetFactor } from "@torpor/std";
import { defaultCacheFolder } from "@torpor/storage";
import { safetyMatrix } from "../test/vm/safety-matrix.ts";

const root = join(import.meta.dirname, "..");
const filesAtOnce = 2;
/** LIMIT: a hung test file is ended, and fails, after this. */
const fileBudgetMs = 15 * 60_000 * budgetFactor;
/** LIMIT: those of test/long try a million inputs, or wait for a hundred sleeps. */
const longFileBudgetMs = 3 * 60 * 60_000 * budgetFactor;
const safetyFiles = safetyMatrix.map(({ file }) => join(root, "test/vm", file));

interface Counts {
  passed: number;
  failed: number;
  skipped: number;
}

const selection = process.argv.slice(2);
const unitFiles = await find([
  "packages/*/src/**/*.test.ts",
  "test/repository/*.test.ts",
  "test/model/*.test.ts",
  "test/fuzz/*.test.ts",
  "test/hostile/*.test.ts",
  "test/nested/*.test.ts",
]);
const vmFiles = await find(["test/vm/*.test.ts"]);
const e2bFiles = await find(["test/e2b/*.test.ts"]);
const longFiles = await find(["test/long/*.test.ts"]);
const counts: Counts = { passed: 0, failed: 0, skipped: 0 };

const unit = selected(unitFiles, "unit");
const long = selection.length === 0 ? [] : selected(longFiles, "long");
const onVms = [...selected(vmFiles, "vm"), ...selected(e2bFiles, "e2b")];
const runOnVms = onVms.length + long.length > 0 && (await isSetUp());
if (unit.length > 0) await runFiles(unit, fileBudgetMs);
if (runOnVms && onVms.length > 0) await runFiles(onVms, fileBudgetMs);
if (runOnVms && long.length > 0) await runFiles(long, longFileBudgetMs);

if (counts.skipped > 0) process.stdout.write(`\n${counts.skipped} skipped`);
process.stdout.write(`\n${counts.passed} passed, ${counts.failed} failed\n`);
process.exit(counts.failed === 0 && counts.passed > 0 ? 0 : 1);

async function find(patterns: readonly string[]): Promise<readonly string[]> {
  const files: string[] = [];
  for await (const file of glob(patterns, { cwd: root })) files.push(join(root, file));
  return files.sort();
}

function selected(files: readonly string[], group: string): readonly string[] {
  if (selection.length === 0 || selection.includes(group)) return files;
  const isSafety = (file: string): boolean =>
    selection.includes("safety") && safetyFiles.includes(file);
  const isNamed = (file: string): boolean =>
    selection.some((part) => relative(root, file).startsWith(part));
  return files.filter((file) => isSafety(file) || isNamed(file));
}

/** Sets the machine up. If that fails, a test has failed: nothing on a VM can be said to work. */
async function isSetUp(): Promise<boolean> {
  try {
    const progress = new TerminalProgress(process.stdout);
    await setUp({ cacheFolder: defaultCacheFolder(), progress });
    return true;
  } catch (cause) {
    const error = TorporError.from(cause, "internal");
    process.stdout.write(`set-up failed: ${error.message}\n  next: ${error.advice}\n`);
    counts.failed += 1;
    return false;
  }
}

async function runFiles(files: readonly string[], timeout: number): Promise<void> {
  const concurrency = Math.min(filesAtOnce, availableParallelism());
  const events = run({ files: [...files], concurrency, timeout });
  events.on("test:pass", (event) => {
    if (event.details.type === "suite" || isFile(event)) return;
    if (event.skip === undefined && event.todo === undefined) counts.passed += 1;
    else counts.skipped += 1;
  });
  events.on("test:fail", (event) => {
    if (isSumOfOthers(event.details.error)) return;
    if (event.todo === undefined) counts.failed += 1;
    else counts.skipped += 1;
    // The reporter prints the reason when all is over, which may be an hour away.
    process.stdout.write(`${event.name}: ${inspect(event.details.error.cause)}\n`);
  });
  for await (const line of events.compose(new spec()) as AsyncIterable<unknown>) {
    process.stdout.write(String(line));
  }
}

/** Whether a test failed only because tests inside it did, which are counted themselves. */
function isSumOfOthers(error: unknown): boolean {
  return error instanceof Error && "failureType" in error && error.failureType === "subtestsFailed";
}

/** Whether this is a file, which is reported as a test too when it holds none of its own. */
function isFile(event: { readonly name: string; readonly file?: string | undefined }): boolean {
  return event.file !== undefined && event.name === event.file;
}
