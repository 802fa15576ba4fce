/**
 * The daemon for tests of a crash: it kills itself, as `kill -9` would, before or after a step.
 *
 *     node dying-daemon.ts before "save memory"
 */
import { startDaemon } from "@torpor/host";
import { TorporError, jsonLogger } from "@torpor/std";
import { defaultCacheFolder, defaultKeyFile, defaultStateFolder } from "@torpor/storage";

const [, , diesMoment, diesStep] = process.argv;
if (diesMoment === undefined || diesStep === undefined) {
  throw new TorporError("argument.invalid", "usage: dying-daemon.ts before|after STEP");
}
const log = jsonLogger((line) => process.stderr.write(line));
const daemon = await startDaemon({
  stateFolder: defaultStateFolder(),
  cacheFolder: defaultCacheFolder(),
  keyFile: defaultKeyFile(),
  port: 0,
  spareCount: Number(process.env["TORPOR_SPARES"] ?? 0),
  log,
  failpoint: async (step, moment) => {
    if (step !== diesStep || moment !== diesMoment) return;
    process.kill(process.pid, "SIGKILL");
    await new Promise(() => undefined); // the signal may take a moment; nothing may continue until then
  },
});
log.info("serving", { url: daemon.url, socket: daemon.socketPath });
