/**
 * The daemon as a program: it takes its folders and settings from the environment and logs one JSON
 * object per line to standard error. SIGTERM and SIGINT end it; see stop.ts for what happens to the
 * VMs.
 */
import { TorporError, jsonLogger } from "@torpor/std";
import {
  checkSettings,
  daemonSettings,
  defaultCacheFolder,
  defaultKeyFile,
  defaultStateFolder,
} from "@torpor/storage";
import { reportCrashes } from "./crash.ts";
import { type Daemon, startDaemon } from "./daemon.ts";
import { readDaemonEnv } from "./daemon-env.ts";
import { stopOnSignal } from "./stop.ts";
import { tellSupervisor } from "./supervisor.ts";

// VMMs and pagers inherit it: files that others may read get their mode where they are created.
process.umask(0o077);
const log = jsonLogger((line) => process.stderr.write(line));
let serving: Daemon | undefined;
reportCrashes(log, () => serving?.describeWork() ?? { phase: "starting" });
// The supervisor's channel must not keep this process alive.
process.channel?.unref();
try {
  checkSettings(process.env);
  const { onStop, ...options } = readDaemonEnv(process.env);
  const cacheFolder = defaultCacheFolder();
  await using daemon = await startDaemon({
    stateFolder: defaultStateFolder(),
    cacheFolder,
    keyFile: defaultKeyFile(),
    ...options,
    settings: daemonSettings({ ...process.env, TORPOR_CACHE: cacheFolder }),
    log,
  });
  serving = daemon;
  const { url, tlsUrl, socketPath } = daemon;
  log.info("serving", { url, tlsUrl, socket: socketPath });
  tellSupervisor("serving");
  await stopOnSignal({
    sandboxes: daemon.sandboxes,
    onStop,
    log,
    onSignal: () => {
      daemon.beginEnding();
      tellSupervisor("ending");
    },
  });
} catch (cause) {
  const error = TorporError.from(cause, "internal");
  log.error(error.rawMessage, { code: error.code, advice: error.advice, cause });
  process.exitCode = 1;
}
// A leaked handle must not keep this process alive, and the next daemon out of the state folder.
process.exit();
