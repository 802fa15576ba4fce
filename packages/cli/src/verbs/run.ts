/** `torpor run`: one command in a fresh sandbox, which is removed afterwards. */
import type { Command } from "commander";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { removeQuietly, waitToRemove } from "../interrupted-making.ts";
import { type LifetimeOptions, addLifetimeOptions, lifetimeOf } from "../lifetime-options.ts";
import type { Session } from "../session.ts";
import { requireTerminal } from "../terminal.ts";
import { collect, parseCommandWords, parseEnv, shellArgv, usageError } from "../usage.ts";

interface RunOptions extends LifetimeOptions {
  readonly template: string;
  readonly env?: readonly string[];
  readonly tty?: boolean;
  readonly keep?: boolean;
}

/** Adds `torpor run` to the program. */
export function addRun(program: Command, session: Session): void {
  const command = program
    .command("run")
    .description("run a command in a fresh sandbox and remove it afterwards")
    .argument("<command...>", "the command, after `--`")
    .option("--template <name>", "what it is made from: a template or a snapshot", "base")
    .option("-e, --env <K=V>", "set a variable in the sandbox; repeat for more", collect)
    .option("-t, --tty", "give the command a terminal")
    .option("--keep", "keep the sandbox; its id goes to standard error");
  addLifetimeOptions(command)
    .passThroughOptions()
    .addHelpText(
      "after",
      `
Standard input is passed on when it is not a terminal. The exit code is the command's; 127 when
it was not found, 126 when it cannot run. A single word with spaces runs by \`bash -l -c\`.

Examples:
  torpor run -- python3 -c 'print(2**64)'
  torpor run -e TOKEN -- './fetch.sh | sort'
  tar c . | torpor run -- tar tv`,
    )
    .action(async (words: readonly string[], options: RunOptions) => {
      session.exitCode = await run(session, words, options);
    });
}

async function run(
  session: Session,
  words: readonly string[],
  options: RunOptions,
): Promise<number> {
  const [cmd, ...args] = parseCommandWords(words);
  if (cmd === undefined) throw usageError("there is no command", "See `torpor run --help`.");
  const argv = shellArgv([cmd, ...args]);
  const env = parseEnv(options.env, session.env);
  const tty = options.tty === true;
  if (tty) requireTerminal(process.stdin, process.stdout);
  const input = tty || session.input.isTTY !== true;
  let sandboxId: string | undefined;
  const sayLeft = (): void => {
    const next = sandboxId === undefined ? "torpor ls" : `torpor rm ${sandboxId}`;
    session.output.note(`The sandbox may be left behind: see \`${next}\`.`);
  };
  const work = async (interrupt: Interrupt): Promise<number> => {
    const making = session.create({
      template: options.template,
      env,
      metadata: {},
      lifetime: lifetimeOf(options),
    });
    const access = await waitToRemove(session, interrupt, making);
    sandboxId = access.id;
    // An interrupted command did not do what its sandbox was to be kept for.
    const keep = options.keep === true && !interrupt.happened;
    if (keep) session.output.note(`Sandbox ${access.id} is kept.`);
    await using undo = new AsyncDisposableStack();
    if (!keep) undo.defer(() => removeQuietly(session, access.id));
    if (interrupt.happened) return interrupt.exitCode;
    const onInterrupt = keep ? "end" : "leave";
    const { runForeground } = await import("../foreground.ts");
    return await runForeground(
      session,
      access,
      { argv, env: {}, input, tty, onInterrupt },
      interrupt,
    );
  };
  return await interruptible(session.output, work, sayLeft);
}
