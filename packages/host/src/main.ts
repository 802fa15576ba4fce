/**
 * The daemon as a program: its folders and settings come from the environment, and it logs one JSON
 * object a line to standard error. SIGTERM and SIGINT end it; see stop.ts for what becomes of the VMs.
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

// Of VMMs and pagers too: what shall be readable to others is given its mode where it is made.
process.umask(0o077);
const log = jsonLogger((line) => process.stderr.write(line));
let serving: Daemon | undefined;
reportCrashes(log, () => serving?.describeWork() ?? { phase: "starting" });
// The supervisor's channel is no reason to live on.
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
// Nothing is left to do: a handle that somebody forgot must not keep the state folder's next daemon out.
process.exit();
