/**
 * The pager's process: its argument is the run's folder, in which its options are, and its log is standard
 * error. Its last line there is how it ended, for a daemon that may not have been there.
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
// ORDER: once the line is closed the daemon reads the last words.
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
