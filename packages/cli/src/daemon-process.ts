/**
 * Starts and ends the daemon's process.
 *
 * A supervisor starts the daemon and ends with it, unless it crashes. Both are in a session of
 * their own, so that Ctrl-C in our terminal does not reach them, and append to
 * `<state>/daemon.log`. Two commands may start a daemon at the same time; the lock on the state
 * folder lets one of them win, and both use that one.
 */
import { spawn } from "node:child_process";
import { mkdir, open } from "node:fs/promises";
import { join, resolve } from "node:path";
import { fileURLToPath } from "node:url";
import { Deadline, TorporError, systemCode } from "@torpor/std";
import { refuseForeignState, stateFiles } from "@torpor/storage";
import type { DaemonClient } from "./daemon-client.ts";
import { errorFromLog, logSize, readLogFrom } from "./daemon-log.ts";
import { isRunningProcess } from "./process-state.ts";

/** Reconciling what an earlier daemon left may probe every VM. */
const startMs = 60_000;
/** A daemon that ends waits for verbs that are under way. */
const endMs = 120_000;
/** It also waits for each sandbox that it was asked to pause first, a few at a time. */
const endPauseMs = 60_000;
const pollMs = 50;

/** The folders that a daemon works in. */
export interface DaemonFolders {
  readonly stateFolder: string;
  readonly cacheFolder: string;
}

/**
 * Starts the daemon of `stateFolder` and waits until it answers.
 * @throws the error that ended the daemon, storage.exposed, or deadline.exceeded
 */
export async function startDaemonProcess(
  client: DaemonClient,
  { stateFolder, cacheFolder }: DaemonFolders,
): Promise<void> {
  // ORDER: checked before a log is opened that another user may have put there.
  await mkdir(stateFolder, { recursive: true, mode: 0o700 });
  refuseForeignState(stateFolder);
  const logPath = join(stateFolder, stateFiles.log);
  const logStart = await logSize(logPath);
  const ended = await spawnDetached(logPath, stateFolder, cacheFolder);
  const deadline = Deadline.after(startMs, "starting the daemon");
  while (!(await client.isAnswering())) {
    if (deadline.expired) throw failedStart("the daemon does not answer", logPath, undefined);
    if (ended.aborted) {
      const cause = errorFromLog(await readLogFrom(logPath, logStart));
      // Another command won the race; its daemon will answer in a moment.
      if (cause?.code !== "daemon.alreadyRunning") {
        throw failedStart("the daemon ended at its start", logPath, cause);
      }
    }
    await deadline.sleep(pollMs);
  }
}

/** @returns a signal that aborts when the process ends */
async function spawnDetached(
  logPath: string,
  stateFolder: string,
  cacheFolder: string,
): Promise<AbortSignal> {
  const ended = new AbortController();
  await using log = await open(logPath, "a", 0o600);
  const main = fileURLToPath(import.meta.resolve("@torpor/host/supervisor"));
  const child = spawn(process.execPath, [main], {
    // A user may later want to remove or unmount our own working folder.
    cwd: stateFolder,
    detached: true,
    // Absolute: a relative folder in our environment is relative to our working folder, not to the
    // daemon's.
    env: {
      ...process.env,
      TORPOR_HOME: resolve(stateFolder),
      TORPOR_CACHE: resolve(cacheFolder),
    },
    stdio: ["ignore", log.fd, log.fd],
  });
  child.once("error", () => ended.abort());
  child.once("exit", () => ended.abort());
  child.unref();
  return ended.signal;
}

function failedStart(what: string, logPath: string, cause: TorporError | undefined): TorporError {
  if (cause === undefined) {
    return new TorporError("daemon.unreachable", what, { advice: `Read its log, ${logPath}.` });
  }
  return new TorporError(cause.code, `${what}: ${cause.rawMessage}`, {
    cause,
    effect: "none",
    advice: cause.advice,
  });
}

/**
 * Asks the daemon with process `pid` to end and waits until it has.
 * @param runningCount How many sandboxes it may pause first.
 * @throws root.required, deadline.exceeded
 */
export async function endDaemonProcess(
  client: DaemonClient,
  pid: number,
  runningCount: number,
): Promise<void> {
  try {
    process.kill(pid, "SIGTERM");
  } catch (cause) {
    if (systemCode(cause) === "ESRCH") return;
    throw new TorporError("root.required", `process ${pid} may not be ended by this user`, {
      cause,
      advice: "Run the same command as the user that started the daemon.",
    });
  }
  const deadline = Deadline.after(endMs + runningCount * endPauseMs, "ending the daemon");
  // ORDER: the socket disappears first, the lock on the state folder with the process.
  while (isRunningProcess(pid) || (await client.isAnswering())) {
    if (deadline.expired) {
      throw new TorporError("deadline.exceeded", `process ${pid} was asked to end and still runs`, {
        advice: `Read \`torpor logs --daemon\`; \`kill -9 ${pid}\` ends it, and sandboxes go on running.`,
      });
    }
    await deadline.sleep(pollMs);
  }
}
