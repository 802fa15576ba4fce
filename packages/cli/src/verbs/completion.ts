/** `torpor completion`: a script that teaches a shell our verbs and options. */
import type { Command } from "commander";
import type { Session } from "../session.ts";
import { usageError } from "../usage.ts";

export function addCompletion(program: Command, session: Session): void {
  program
    .command("completion")
    .description("print a completion script for a shell")
    .argument("<shell>", "bash or zsh")
    .addHelpText("after", '\nExamples:\n  eval "$(torpor completion bash)"')
    .action((shell: string) => {
      if (shell !== "bash" && shell !== "zsh") {
        throw usageError(`there is no completion for ${shell}`, "Name bash or zsh.");
      }
      session.output.print(completionScript(program, shell));
    });
}

/** The same script for both: zsh can run completions that were written for bash. */
function completionScript(program: Command, shell: "bash" | "zsh"): string {
  const verbs = program.commands.map((verb) => verb.name());
  const cases = program.commands.flatMap((verb) => [
    ...verb.commands.map((part) => caseLine(`"${verb.name()} ${part.name()}"`, part)),
    caseLine(`${verb.name()}|"${verb.name()} "*`, verb),
  ]);
  const script = `_torpor() {
  local words="${verbs.join(" ")}"
  if [ "$COMP_CWORD" -gt 1 ]; then
    local verb="\${COMP_WORDS[1]}"
    if [ "$COMP_CWORD" -gt 2 ]; then verb="$verb \${COMP_WORDS[2]}"; fi
    case "$verb" in
${cases.join("\n")}
    *) words="" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _torpor torpor`;
  return shell === "bash" ? script : `autoload -U +X bashcompinit && bashcompinit\n${script}`;
}

function caseLine(pattern: string, command: Command): string {
  const words = [
    ...command.commands.map((part) => part.name()),
    ...command.options.flatMap(({ long }) => long ?? []),
    "--help",
  ];
  return `    ${pattern}) words="${words.join(" ")}" ;;`;
}
