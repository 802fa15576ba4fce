/** The torpor command as a program, under the pinned Node; bin/torpor.mjs starts it. */
import { constants } from "node:os";
import { systemCode } from "@torpor/std";
import { defaultCacheFolder, defaultStateFolder } from "@torpor/storage";
import { Output } from "./output.ts";
import { runCli, wantsJson } from "./program.ts";
import { Session } from "./session.ts";

const argv = process.argv.slice(2);
const output = new Output(process.stdout, process.stderr);

/** Errors of a pipe or terminal that is gone: `torpor logs ID | head` is no failure. */
const readerLostCodes = new Set(["EPIPE", "EIO", "ECONNRESET"]);

// Verbs with something to clean up do so, others just end.
process.stdout.on("error", (error: Error) => {
  const isLost = readerLostCodes.has(systemCode(error) ?? "");
  if (!isLost) output.note(`error: standard output cannot be written: ${error.message}`);
  if (!output.readerIsGone()) process.exit(isLost ? 128 + constants.signals.SIGPIPE : 1);
});
process.stderr.on("error", () => undefined);
process.stdin.on("error", () => undefined);

// The launcher holds this channel. It breaks when the launcher was killed, and with it the caller
// that waits for us.
process.once("disconnect", () => process.kill(process.pid, "SIGHUP"));
process.channel?.unref();

const exitCode = await runCli(
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
// Not left to Node: a verb that was interrupted may have left a request on its way.
process.exit(exitCode);
