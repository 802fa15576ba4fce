/** `torpor completion`: a script that teaches a shell our verbs, options and names. */
import { type Command, Option } from "commander";
import type { DaemonClient } from "../daemon-client.ts";
import type { Session } from "../session.ts";
import { usageError } from "../usage.ts";

/** The lists that the script requests from the daemon when a user presses Tab. */
const nameLists = ["ids", "templates", "snapshots", "keys"] as const;
type NameList = (typeof nameLists)[number];

/** The list that completes an argument or an option's value, by its name in our usage. */
const listOfArgument: Readonly<Record<string, NameList>> = {
  id: "ids",
  snapshot: "snapshots",
  key: "keys",
};
const listOfOption: Readonly<Record<string, NameList>> = { "--template": "templates" };
/**
 * The shell expands the words it completes from: a name with other characters could be a command.
 */
const plainName = /^[\w.:@/-]+$/;

interface CompletionOptions {
  readonly names?: NameList;
}

/** Adds `torpor completion` to the program. */
export function addCompletion(program: Command, session: Session): void {
  program
    .command("completion")
    .description("print a completion script for a shell")
    .argument("[shell]", "bash or zsh")
    .addOption(new Option("--names <list>", "print names").choices(nameLists).hideHelp())
    .addHelpText(
      "after",
      `
Examples:
  eval "$(torpor completion bash)"     in ~/.bashrc
  eval "$(torpor completion zsh)"      in ~/.zshrc`,
    )
    .action(async (shell: string | undefined, { names }: CompletionOptions) => {
      if (names !== undefined) await printNames(session, names);
      else if (shell === "bash" || shell === "zsh")
        session.output.print(completionScript(program, shell));
      else {
        const what =
          shell === undefined ? "no shell is named" : `there is no completion for ${shell}`;
        throw usageError(what, "Name bash or zsh.");
      }
    });
}

/** Starts no daemon: pressing Tab must have no lasting effect. */
async function printNames({ client, output }: Session, list: NameList): Promise<void> {
  if (!(await client.isAnswering())) return;
  for (const name of await namesOf[list](client)) if (plainName.test(name)) output.print(name);
}

const namesOf: Readonly<Record<NameList, (client: DaemonClient) => Promise<readonly string[]>>> = {
  ids: async (client) => (await client.list()).map(({ id }) => id),
  templates: async (client) => [
    ...(await client.describe()).templates,
    ...(await namesOf.snapshots(client)),
  ],
  snapshots: async (client) => (await client.snapshots()).map(({ id, name }) => name ?? id),
  keys: async (client) => (await client.apiKeys()).map(({ name }) => name),
};

/** Makes one script for both: zsh can run completions that were written for bash. */
function completionScript(program: Command, shell: "bash" | "zsh"): string {
  const verbs = program.commands.map((verb) => verb.name());
  const cases = program.commands.flatMap((verb) => [
    ...verb.commands.map((part) => caseLine(`"${verb.name()} ${part.name()}"`, part, verbs)),
    caseLine(`${verb.name()}|"${verb.name()} "*`, verb, verbs),
  ]);
  const script = `_torpor() {
  local word="\${COMP_WORDS[COMP_CWORD]}" before="\${COMP_WORDS[COMP_CWORD-1]}"
  local words="${verbs.join(" ")}" names="" at=1
  while [ "$at" -lt "$COMP_CWORD" ]; do
    # What follows is a command in a sandbox.
    if [ "\${COMP_WORDS[at]}" = "--" ]; then COMPREPLY=(); return; fi
    at=$((at + 1))
  done
  if [ "$COMP_CWORD" -gt 1 ]; then
    local verb="\${COMP_WORDS[1]}"
    if [ "$COMP_CWORD" -gt 2 ]; then verb="$verb \${COMP_WORDS[2]}"; fi
    case "$verb" in
${cases.join("\n")}
    *) words="" ;;
    esac
    case "$before" in
${valueLines(program).join("\n")}
    esac
  fi
  if [ -n "$names" ] && [ "\${word#-}" = "$word" ]; then
    words="$words $("\${COMP_WORDS[0]}" completion --names "$names" 2>/dev/null)"
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}
complete -o default -F _torpor torpor`;
  if (shell === "bash") return script;
  return `(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
autoload -Uz bashcompinit && bashcompinit
${script}`;
}

function caseLine(pattern: string, command: Command, verbs: readonly string[]): string {
  // The usage and not the arguments: it also has the arguments of a part whose name may be omitted.
  const names = [...command.usage().matchAll(/[<[](\w+)/g)].map(([, name = ""]) => name);
  const list = names.map((name) => listOfArgument[name]).find((one) => one !== undefined);
  const words = [
    ...command.commands.map((part) => part.name()),
    ...(names.includes("shell") ? ["bash", "zsh"] : []),
    ...(names.includes("verb") ? verbs : []),
    ...visibleOptions(command).flatMap(({ long }) => long ?? []),
    "--help",
  ];
  return `    ${pattern}) words="${words.join(" ")}"${list === undefined ? "" : ` names=${list}`} ;;`;
}

/** Completes options that take one of some words, or a name. */
function valueLines(program: Command): readonly string[] {
  const options = program.commands
    .flatMap((verb) => [verb, ...verb.commands])
    .flatMap(visibleOptions);
  const lines = options.flatMap(({ long, argChoices }) => {
    const list = listOfOption[long ?? ""];
    if (list !== undefined) return [`    ${long}) words="" names=${list} ;;`];
    if (argChoices === undefined) return [];
    return [`    ${long}) words="${argChoices.join(" ")}" names="" ;;`];
  });
  return [...new Set(lines)];
}

function visibleOptions(command: Command): readonly Option[] {
  return command.options.filter(({ hidden }) => !hidden);
}
