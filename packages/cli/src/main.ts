/** The torpor command as a program, under the pinned Node; bin/torpor.mjs starts it. */
import { constants } from "node:os";
import { systemCode } from "@torpor/std";
import { defaultCacheFolder, defaultStateFolder } from "@torpor/storage";
import { Output } from "./output.ts";
import { runCli, wantsJson } from "./program.ts";
import { Session } from "./session.ts";

const argv = process.argv.slice(2);
const output = new Output(process.stdout, process.stderr);

// `torpor logs ID | head` is no failure: verbs with something to clean up do so, others just end.
process.stdout.on("error", (error) => {
  if (systemCode(error) !== "EPIPE") throw error;
  if (!output.readerIsGone()) process.exit(128 + constants.signals.SIGPIPE);
});
process.stderr.on("error", () => undefined);

process.exitCode = await runCli(
  argv,
  new Session({
    output,
    input: process.stdin,
    env: process.env,
    stateFolder: defaultStateFolder(),
    cacheFolder: defaultCacheFolder(),
    asJson: wantsJson(argv),
  }),
);
