/** `torpor exec`: a command, or a shell, in a running sandbox. */
import type { Command } from "commander";
import type { GuestProcess } from "../guest-process.ts";
import { interruptible } from "../interrupt.ts";
import type { Session } from "../session.ts";
import { requireTerminal } from "../terminal.ts";
import { collect, parseCommandWords, parseEnv, shellArgv, usageError } from "../usage.ts";

const loginShell = ["/bin/bash", "-i", "-l"] as const;

interface ExecOptions {
  readonly interactive?: boolean;
  readonly tty?: boolean;
  readonly user?: string;
  readonly workdir?: string;
  readonly env?: readonly string[];
}

/** Adds `torpor exec` to the program. */
export function addExec(program: Command, session: Session): void {
  program
    .command("exec")
    .description("run a command in a sandbox")
    .argument("<id>", "sandbox, by the first characters of its id")
    .argument("[command...]", "the command, after `--`; with -t a shell when left out")
    .option("-i, --interactive", "pass on standard input")
    .option("-t, --tty", "give the command a terminal; includes -i")
    .option("-u, --user <name>", "run it as this user of the sandbox")
    .option("-w, --workdir <folder>", "run it in this folder")
    .option("-e, --env <K=V>", "set a variable for it; repeat for more", collect)
    .passThroughOptions()
    .addHelpText(
      "after",
      `
The exit code is the command's; 127 when it was not found, 126 when it cannot run. A single
word with spaces runs by \`bash -l -c\`. The command ends with torpor: by Ctrl-C and Ctrl-\\, which
with -t are keys like any other, when the terminal is closed, and by any signal but SIGKILL, which
leaves it running. One that does not end by SIGTERM is killed after 5 s, or by a second Ctrl-C.
A sandbox that does not answer then is given up after another 15 s, with an error.

Examples:
  torpor exec -t ID
  torpor exec -u root ID -- apt-get update
  torpor exec -i ID -- sh -c 'cat >data.csv' <data.csv`,
    )
    .action(async (id: string, words: readonly string[], options: ExecOptions) => {
      session.exitCode = await exec(session, id, words, options);
    });
}

async function exec(
  session: Session,
  wanted: string,
  words: readonly string[],
  options: ExecOptions,
): Promise<number> {
  const tty = options.tty === true;
  const [cmd, ...args] = parseCommandWords(words);
  if (cmd === undefined && !tty) {
    throw usageError("there is no command", "Add `-- COMMAND`, or -t for a shell.");
  }
  if (tty) requireTerminal(process.stdin, process.stdout);
  const command = {
    argv: cmd === undefined ? loginShell : shellArgv([cmd, ...args]),
    env: parseEnv(options.env, session.env),
    user: options.user,
    workdir: options.workdir,
    input: tty || options.interactive === true,
    tty,
    onInterrupt: "end",
  } as const;
  const { requireRunning, runForeground } = await import("../foreground.ts");
  const sandbox = await session.find(wanted);
  requireRunning(sandbox);
  const access = await session.client.access(sandbox.id);
  let started: GuestProcess | undefined;
  const onStarted = (process: GuestProcess): void => void (started = process);
  const onForced = async (): Promise<void> => {
    if (started === undefined)
      session.output.note("The command may have begun in the sandbox: nothing ended it.");
    else await started.signal("SIGKILL");
  };
  return await interruptible(
    session.output,
    (interrupt) => runForeground(session, access, { ...command, onStarted }, interrupt),
    onForced,
  );
}
