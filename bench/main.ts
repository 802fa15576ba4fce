/**
 * The benchmarks behind the numbers in SPEC.md.
 *
 *     npm run bench                     every row
 *     npm run bench -- pause dirty      the rows of some files
 *
 * A claim is a ratio of two things measured in the same run on the same machine: absolute times of
 * one machine say little about another. When a file is done, its rows are printed as a table and
 * appended to `results.ndjson`, one object a line.
 */
import { createHash } from "node:crypto";
import { appendFile, readFile } from "node:fs/promises";
import { availableParallelism, cpus, totalmem } from "node:os";
import { join } from "node:path";
import { inspect } from "node:util";
import { TerminalProgress, setUp } from "@torpor/setup";
import { Deadline, runCommand } from "@torpor/std";
import { defaultCacheFolder } from "@torpor/storage";
import { measureCheckpoint } from "./checkpoint.bench.ts";
import { measureCommands } from "./commands.bench.ts";
import { measureControlPlane } from "./control-plane.bench.ts";
import { measureCreate } from "./create.bench.ts";
import { measureDensity } from "./density.bench.ts";
import { measureDirty } from "./dirty.bench.ts";
import { measureEdge } from "./edge.bench.ts";
import { measureFork } from "./fork.bench.ts";
import { measureHalfRequests } from "./half-requests.bench.ts";
import { measureManyCreates } from "./many-creates.bench.ts";
import { measureManyPauses } from "./many-pauses.bench.ts";
import { measureManySleepers } from "./many-sleepers.bench.ts";
import { measureOtherTools } from "./other-tools.bench.ts";
import { measurePager } from "./pager.bench.ts";
import { measurePause } from "./pause.bench.ts";
import { measurePool } from "./pool.bench.ts";
import { measureReadAhead } from "./read-ahead.bench.ts";
import type { Row } from "./row.ts";
import { measureTransfers } from "./transfers.bench.ts";
import { measureVmEnd } from "./vm-end.bench.ts";

const benches = {
  "control-plane": measureControlPlane,
  create: measureCreate,
  "many-creates": measureManyCreates,
  pool: measurePool,
  "read-ahead": measureReadAhead,
  fork: measureFork,
  pause: measurePause,
  checkpoint: measureCheckpoint,
  dirty: measureDirty,
  "many-pauses": measureManyPauses,
  "many-sleepers": measureManySleepers,
  density: measureDensity,
  pager: measurePager,
  "other-tools": measureOtherTools,
  edge: measureEdge,
  "half-requests": measureHalfRequests,
  commands: measureCommands,
  transfers: measureTransfers,
  "vm-end": measureVmEnd,
} as const;

const resultsPath = join(import.meta.dirname, "results.ndjson");
const chosen = process.argv.slice(2);
const progress = new TerminalProgress(process.stdout);

await setUp({ cacheFolder: defaultCacheFolder(), progress });
let allHold = true;
for (const [name, measure] of Object.entries(benches)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue;
  try {
    const rows = await progress.step(`bench ${name}`, () => measure(defaultCacheFolder()));
    printTable(rows);
    await append(rows);
    allHold &&= rows.every(({ holds }) => holds !== false);
  } catch (cause) {
    // The other files take minutes and are not affected, so the run continues.
    process.stdout.write(`${inspect(cause)}\n`);
    allHold = false;
  }
}
process.exitCode = allHold ? 0 : 1;

function printTable(all: readonly Row[]): void {
  const width = Math.max(...all.map(({ row }) => row.length));
  for (const { row, value, unit, bound, holds } of all) {
    const number = `${Number(value.toFixed(2))} ${unit}`.padStart(16);
    const verdict = bound === undefined ? "" : `  ${holds === true ? "✔" : "✖"} ${bound}`;
    process.stdout.write(`${row.padEnd(width)}  ${number}${verdict}\n`);
  }
}

async function append(all: readonly Row[]): Promise<void> {
  const shared = { commit: await commit(), machine: await machine() };
  const lines = all.map(({ row, value, unit }) =>
    JSON.stringify({ ...shared, row, value: Number(value.toFixed(3)), unit }),
  );
  await appendFile(resultsPath, `${lines.join("\n")}\n`);
}

async function commit(): Promise<string> {
  const deadline = Deadline.after(10_000, "asking git for the commit");
  const { stdout } = await runCommand(["git", "rev-parse", "--short=12", "HEAD"], deadline);
  return stdout.trim();
}

/** Describes the CPU, the cores, the memory and the kernel; no name of a host. */
async function machine(): Promise<string> {
  const kernel = (await readFile("/proc/sys/kernel/osrelease", "utf8")).trim();
  const parts = [cpus()[0]?.model ?? "", availableParallelism(), Math.round(totalmem() / 2 ** 30)];
  const id = createHash("sha256").update(`${parts.join()}${kernel}`).digest("hex").slice(0, 8);
  return `${id}: ${parts[1]} × ${parts[0]}, ${parts[2]} GiB, Linux ${kernel.split("-")[0]}`;
}
