/**
 * The pager's process: options on standard input, the log on standard error. Its last line there is how
 * it ended, for a daemon that may not have been there.
 */
import { readFileSync, writeSync } from "node:fs";
import { TorporError, parseJson } from "@torpor/std";
import { type PagerEnd, lastWords } from "./last-words.ts";
import { parseOptions } from "./pager-options.ts";
import { Pager } from "./pager.ts";

const standardInput = 0;
const standardError = 2;

const line = new DisposableStack();
const end = await run();
writeSync(standardError, `${lastWords(end)}\n`);
// ORDER: once the line is closed the daemon reads the last words.
line.dispose();
process.exit(end.kind === "vmEnded" ? 0 : 1);

async function run(): Promise<PagerEnd> {
  try {
    const text = readFileSync(standardInput, "utf8");
    await new Pager(parseOptions(parseJson(text, "the pager's options"))).run(line);
    return { kind: "vmEnded" };
  } catch (cause) {
    const error = TorporError.from(cause, "vmm.failed", "the pager");
    writeSync(standardError, `${error.stack ?? ""}\n`);
    return { kind: "failed", error };
  }
}
