/**
 * The last resort of the daemon's process. An uncaught exception is logged with what is needed to
 * find its cause, and ends the process, because its state is unknown. VMs keep running, and the
 * supervisor starts the next daemon, which adopts them.
 */
import { type JsonObject, type Logger, systemCode } from "@torpor/std";

/** Tells the supervisor that the daemon crashed; EX_SOFTWARE of sysexits.h. */
export const crashExitCode = 70;
/** LIMIT: a stack with those of its causes. */
const stackCharsMax = 16_384;

/**
 * Logs any uncaught exception of this process and exits with `crashExitCode`.
 * @param describe Describes the work in progress: counts, ids and names of routes, and nothing
 *   secret.
 */
export function reportCrashes(log: Logger, describe: () => JsonObject): void {
  process.on("uncaughtException", (cause, origin) => {
    try {
      log.error("the daemon crashed", crashFacts(cause, origin, describe));
    } catch (failure) {
      process.stderr.write(`the daemon crashed: ${String(cause)}; no facts: ${String(failure)}\n`);
    } finally {
      process.exit(crashExitCode);
    }
  });
}

/** The fields of the log line about a crash. */
export function crashFacts(cause: unknown, origin: string, describe: () => JsonObject): JsonObject {
  return {
    origin,
    errorCode: systemCode(cause) ?? null,
    stack: stackOf(cause).slice(0, stackCharsMax),
    versions: { node: process.version, v8: process.versions.v8, openssl: process.versions.openssl },
    pid: process.pid,
    uptimeSeconds: Math.round(process.uptime()),
    memoryBytes: process.memoryUsage(),
    advice: "This is a bug in Torpor: please report it with this line.",
    ...describe(),
  };
}

function stackOf(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause);
  const own = cause.stack ?? cause.message;
  return cause.cause === undefined ? own : `${own}\ncaused by ${stackOf(cause.cause)}`;
}
