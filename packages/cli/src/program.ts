/**
 * The torpor command: its verbs, and how their failures are reported.
 *
 * Exit codes: 0 done, 1 failed, 2 misused, 126 and 127 a command that cannot run in a sandbox or
 * was not found there, 128 and more after a signal; `run` and `exec` pass on the command's own.
 */
import { readFileSync } from "node:fs";
import { Command, CommanderError } from "commander";
import { TorporError, parseJson, parseObject, parseString } from "@torpor/std";
import { checkSettings } from "@torpor/storage";
import type { Session } from "./session.ts";
import { isUsageError, usageError } from "./usage.ts";
import { addCompletion } from "./verbs/completion.ts";
import { addCreate } from "./verbs/create.ts";
import { addDoctor } from "./verbs/doctor.ts";
import { addDown } from "./verbs/down.ts";
import { addExec } from "./verbs/exec.ts";
import { addFork } from "./verbs/fork.ts";
import { addHelp } from "./verbs/help.ts";
import { addInfo } from "./verbs/info.ts";
import { addKeys } from "./verbs/keys.ts";
import { addList } from "./verbs/list.ts";
import { addLogs } from "./verbs/logs.ts";
import { addPauseAndResume } from "./verbs/pause.ts";
import { addRemove } from "./verbs/remove.ts";
import { addRun } from "./verbs/run.ts";
import { addSnapshot } from "./verbs/snapshot.ts";
import { addTimeout } from "./verbs/timeout.ts";
import { addUninstall } from "./verbs/uninstall.ts";
import { addUp } from "./verbs/up.ts";

const helpColumns = 96;

/** Runs one command line, without the program's name. Never throws; the result is the exit code. */
export async function runCli(argv: readonly string[], session: Session): Promise<number> {
  const program = buildProgram(session);
  try {
    await program.parseAsync([...argv], { from: "user" });
    return session.exitCode;
  } catch (cause) {
    if (cause instanceof CommanderError && isHelp(cause)) return cause.exitCode === 0 ? 0 : 2;
    const error =
      cause instanceof CommanderError
        ? commanderError(cause, argv, program)
        : TorporError.from(cause, "internal");
    session.fail(error);
    return exitCodeOf(error);
  }
}

/**
 * Whether this command line's failures are for a script. The words after `--` belong to another
 * command.
 */
export function wantsJson(argv: readonly string[]): boolean {
  const [verb] = argv;
  // The options of these verbs end where the other command begins, and neither verb has a JSON
  // form.
  if (verb === "run" || verb === "exec") return false;
  const end = argv.indexOf("--");
  return argv.slice(0, end < 0 ? undefined : end).includes("--json");
}

/** Builds the parser with all verbs. Parsing a command line with it runs the verb. */
export function buildProgram(session: Session): Command {
  const program = new Command("torpor")
    .description("Sandboxes for AI agents that sleep and wake.")
    .version(loadVersion())
    .enablePositionalOptions()
    .helpCommand(false)
    .exitOverride()
    .configureHelp({ helpWidth: helpColumns })
    .configureOutput({
      writeOut: (text) => session.output.print(text.trimEnd()),
      writeErr: (text) => session.output.note(text.trimEnd()),
      // `runCli` reports it, in the form of all our failures.
      outputError: () => undefined,
    })
    .addHelpText(
      "after",
      `
Sandboxes are named by the first characters of their ids, at least three.
TORPOR_HOME is where sandboxes are kept; TORPOR_PORT is where the daemon listens.

Examples:
  torpor up --tour
  torpor run -- python3 -c 'print(2**64)'
  torpor ls`,
    );
  // Help and completion work with any settings.
  program.hook("preAction", (_program, verb) => {
    if (!["completion", "help"].includes(verb.name())) checkEnvironment(session.env);
  });
  program.commandsGroup("Machine:");
  addUp(program, session);
  addDown(program, session);
  addDoctor(program, session);
  addUninstall(program, session);
  program.commandsGroup("Sandboxes:");
  addRun(program, session);
  addCreate(program, session);
  addExec(program, session);
  addList(program, session);
  addInfo(program, session);
  addPauseAndResume(program, session);
  addFork(program, session);
  addSnapshot(program, session);
  addTimeout(program, session);
  addRemove(program, session);
  addLogs(program, session);
  program.commandsGroup("Access:");
  addKeys(program, session);
  addCompletion(program, session);
  addHelp(program);
  return program;
}

function isHelp({ code }: CommanderError): boolean {
  return code === "commander.helpDisplayed" || code === "commander.help" || isVersion(code);
}

function isVersion(code: string): boolean {
  return code === "commander.version";
}

function commanderError(
  { message }: CommanderError,
  argv: readonly string[],
  program: Command,
): TorporError {
  const verb = program.commands.find((one) => one.name() === argv[0]);
  const help = verb === undefined ? "torpor --help" : `torpor ${verb.name()} --help`;
  return usageError(message.replace(/^error: /, "").replaceAll("\n", " "), `See \`${help}\`.`);
}

/** Checks the settings. @throws usage error */
function checkEnvironment(env: NodeJS.ProcessEnv): void {
  try {
    checkSettings(env);
  } catch (cause) {
    const { rawMessage, advice } = TorporError.from(cause, "internal");
    throw usageError(rawMessage, advice);
  }
}

function exitCodeOf(error: TorporError): number {
  if (isUsageError(error)) return 2;
  const { exitCode } = error.details;
  return typeof exitCode === "number" ? exitCode : 1;
}

function loadVersion(): string {
  const text = readFileSync(new URL("../package.json", import.meta.url), "utf8");
  return parseString(
    parseObject(parseJson(text, "package.json"), "package.json")["version"],
    "version",
  );
}
