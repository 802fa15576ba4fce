/** `torpor up`: takes a bare machine to a daemon that answers, and gives a tour of it. */
import type { Command } from "commander";
import { Deadline } from "@torpor/std";
import type { DaemonInfo } from "../daemon-answers.ts";
import type { DaemonClient } from "../daemon-client.ts";
import {
  errorFromLog,
  followLog,
  logSize,
  readLogFrom,
  shownLogLine,
  sleepUnlessAborted,
} from "../daemon-log.ts";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { launcherNote, makeLauncher } from "../launcher.ts";
import { isRunningProcess } from "../process-state.ts";
import type { Session } from "../session.ts";

const firstKeyName = "default";
const watchMs = 500;
/** The log's last lines may still be on their way when the daemon's process is gone. */
const lastLinesMs = 500;

interface UpOptions {
  readonly tour?: boolean;
  readonly follow?: boolean;
  readonly share?: boolean;
}

/** Adds `torpor up` to the program. */
export function addUp(program: Command, session: Session): void {
  program
    .command("up")
    .description("set up this machine, where that is still to be done, and start the daemon")
    .option("--tour", "show a first sandbox, then follow the daemon")
    .option("--follow", "stay and follow the daemon's log until Ctrl-C")
    .option("--no-follow", "return after the tour")
    .option("--share", "let other users of this machine run sandboxes of what set-up builds")
    .option("--json", "print the daemon, and a first API key, as JSON")
    .addHelpText(
      "after",
      `
The first time takes some minutes and needs root. The daemon goes on in the background;
\`torpor down\` ends it.

Examples:
  torpor up
  torpor up --tour --no-follow`,
    )
    .action(async (options: UpOptions) => {
      await prepareMachine(session, options.share === true);
      session.exitCode = await interruptible(session.output, (interrupt) =>
        up(session, options, interrupt),
      );
    });
}

async function up(session: Session, options: UpOptions, interrupt: Interrupt): Promise<number> {
  const { output } = session;
  const daemon = await session.daemon(true);
  const info = await daemon.describe();
  const key = await createFirstKey(daemon);
  if (session.asJson) {
    output.printJson({ ...info, apiKey: key ?? null });
  } else {
    printDaemon(session, info);
    if (key !== undefined) printKey(session, key, info);
  }
  if (options.tour === true) {
    const { runTour } = await import("../tour.ts");
    await runTour(daemon, output, interrupt);
  }
  const follows = options.follow ?? options.tour === true;
  return follows ? await followDaemon(session, info, interrupt) : 0;
}

/**
 * Checks the daemon's settings, then sets up the machine. Ctrl-C ends this like any program: every part is safe to interrupt and to
 * repeat.
 */
async function prepareMachine(session: Session, share: boolean): Promise<void> {
  // Loaded here: the modules are large, and no other verb needs them.
  const { readDaemonEnv } = await import("@torpor/host");
  // ORDER: the daemon would refuse a setting only after the minutes that set-up takes.
  readDaemonEnv(session.env);
  const { TerminalProgress, setUp } = await import("@torpor/setup");
  const progress = new TerminalProgress(process.stderr);
  await setUp({ progress, cacheFolder: session.cacheFolder, share });
  const path = session.launcherPath;
  const note = launcherNote(path, await makeLauncher(path), session.env);
  if (note !== undefined) progress.note(note);
}

async function createFirstKey(daemon: DaemonClient): Promise<string | undefined> {
  if ((await daemon.apiKeys()).length > 0) return undefined;
  return (await daemon.createApiKey(firstKeyName)).key;
}

function printDaemon({ output, client, logPath }: Session, info: DaemonInfo): void {
  output.print(`${output.mark(true)} The daemon serves on ${info.url}`);
  output.printTable(
    ["  process", String(info.pid)],
    [
      ["  socket", client.socketPath],
      ["  log", logPath],
      ["  machines", info.accelerator],
      ["  templates", info.templates.join(", ")],
    ],
  );
}

function printKey({ output }: Session, key: string, info: DaemonInfo): void {
  output.print("");
  output.print(`The first API key, "${firstKeyName}". It is shown only now:`);
  for (const line of keyLines(key, info)) output.print(`  ${line}`);
}

/** The variables that the E2B SDKs read, as lines for a shell. */
export function keyLines(key: string, { url, servedDomain }: DaemonInfo): readonly string[] {
  return [
    `export E2B_API_KEY=${key}`,
    `export E2B_API_URL=${url}`,
    `export E2B_SANDBOX_URL=${url}`,
    ...(servedDomain === null ? [] : [`export E2B_DOMAIN=${servedDomain}`]),
  ];
}

/** Shows the daemon's log until Ctrl-C, or until the daemon ends. */
async function followDaemon(
  session: Session,
  info: DaemonInfo,
  interrupt: Interrupt,
): Promise<number> {
  const { output, logPath } = session;
  output.note(`Following the daemon (process ${info.pid}). Ctrl-C stops following.`);
  const start = await logSize(logPath);
  const stop = new AbortController();
  const shown = followLog(logPath, start, (line) => output.note(shownLogLine(line)), stop.signal);
  while (!interrupt.happened && isRunningProcess(info.pid)) {
    await sleepUnlessAborted(watchMs, interrupt.signal);
  }
  if (!interrupt.happened) await Deadline.after(lastLinesMs, "last lines").sleep(lastLinesMs);
  stop.abort();
  await shown;
  if (interrupt.happened) {
    output.note(
      `\nThe daemon goes on in the background (process ${info.pid}, ${info.url}). \`torpor down\` ends it.`,
    );
    return 0;
  }
  const failure = errorFromLog(await readLogFrom(logPath, start));
  if (failure !== undefined) throw failure;
  output.note("The daemon has ended. `torpor up` starts it again.");
  return 0;
}
