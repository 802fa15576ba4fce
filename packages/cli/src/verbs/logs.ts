/** `torpor logs`: the last output of a sandbox, its VMM or the daemon. */
import type { Command } from "commander";
import { TorporError } from "@torpor/std";
import { followLog, logSize, readLogFrom, shownLogLine } from "../daemon-log.ts";
import { interruptible } from "../interrupt.ts";
import type { Session } from "../session.ts";
import { usageError } from "../usage.ts";

const daemonLinesShown = 200;

interface LogsOptions {
  readonly vmm?: boolean;
  readonly daemon?: boolean;
  readonly follow?: boolean;
}

/** Adds `torpor logs` to the program. */
export function addLogs(program: Command, session: Session): void {
  program
    .command("logs")
    .description("show the console of a sandbox, or the daemon's log")
    .argument("[id]", "sandbox, by the first characters of its id")
    .option("--vmm", "show the log of its virtual machine monitor instead")
    .option("--daemon", "show the daemon's log")
    .option("-f, --follow", "with --daemon: go on until Ctrl-C")
    .option("--json", "print console and VMM log as JSON; of the daemon, its lines as they are")
    .addHelpText("after", "\nExamples:\n  torpor logs ID\n  torpor logs --daemon -f")
    .action(async (id: string | undefined, options: LogsOptions) => {
      if ((id === undefined) !== (options.daemon === true)) {
        throw usageError(
          "neither a sandbox nor --daemon is named, or both are",
          "See `torpor logs --help`.",
        );
      }
      if (id !== undefined) await showSandbox(session, id, options);
      else session.exitCode = await showDaemon(session, options);
    });
}

async function showSandbox(session: Session, wanted: string, options: LogsOptions): Promise<void> {
  if (options.follow === true) {
    throw usageError("only --daemon can be followed", "Leave out -f.");
  }
  const { id, state } = await session.find(wanted);
  const logs = await session.client.logs(id);
  if (session.asJson) {
    session.output.printJson(logs);
    return;
  }
  const text = options.vmm === true ? logs.vmm : logs.console;
  const isOver = state === "paused";
  if (text === "" && isOver) {
    session.output.note(
      `${id} is paused: a console and a VMM's log last as long as a run. \`torpor resume ${id}\` begins one.`,
    );
  } else if (text === "") session.output.note(`The log of ${id} is empty so far.`);
  else session.output.print(text.trimEnd());
}

/** Reads the file, so that it also shows why a daemon could not start. */
async function showDaemon(session: Session, options: LogsOptions): Promise<number> {
  const { output, logPath } = session;
  const size = await logSize(logPath);
  if (size === 0) {
    throw new TorporError("daemon.unreachable", `there is no log at ${logPath}`, {
      advice: "Start the daemon with `torpor up`.",
    });
  }
  const show = (line: string): void => output.print(session.asJson ? line : shownLogLine(line));
  const text = await readLogFrom(logPath, 0);
  for (const line of text.trimEnd().split("\n").slice(-daemonLinesShown)) show(line);
  if (options.follow !== true) return 0;
  return await interruptible(output, async (interrupt) => {
    await followLog(logPath, size, show, interrupt.signal);
    return 0;
  });
}
