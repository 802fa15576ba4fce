/**
 * The pager's process. Its argument is the run's folder, which holds its options, and its log is
 * standard error. The last line of the log says how it ended, for a daemon that may not have been
 * running then.
 */
import { writeSync } from "node:fs";
import { TorporError } from "@torpor/std";
import { type PagerEnd, lastWords } from "./last-words.ts";
import { readOptions } from "./pager-options.ts";
import { Pager } from "./pager.ts";

const standardError = 2;

const line = new DisposableStack();
const end = await run();
writeSync(standardError, `${lastWords(end)}\n`);
// ORDER: the daemon reads the last line of the log once the line is closed.
line.dispose();
process.exit(end.kind === "vmEnded" ? 0 : 1);

async function run(): Promise<PagerEnd> {
  try {
    await new Pager(readOptions(process.argv[2] ?? "")).run(line);
    return { kind: "vmEnded" };
  } catch (cause) {
    const error = TorporError.from(cause, "vmm.failed", "the pager");
    writeSync(standardError, `${error.stack ?? ""}\n`);
    return { kind: "failed", error };
  }
}
