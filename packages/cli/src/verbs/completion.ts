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
export function completionScript(program: Command, shell: "bash" | "zsh"): string {
  const verbs = program.commands.map((verb) => verb.name());
  const cases = program.commands.map((verb) => {
    const words = [
      ...verb.commands.map((part) => part.name()),
      ...verb.options.flatMap(({ long }) => long ?? []),
      "--help",
    ];
    return `    ${verb.name()}) words="${words.join(" ")}" ;;`;
  });
  const script = `_torpor() {
  local words="${verbs.join(" ")}"
  if [ "$COMP_CWORD" -gt 1 ]; then
    case "\${COMP_WORDS[1]}" in
${cases.join("\n")}
    *) words="" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "\${COMP_WORDS[COMP_CWORD]}"))
}
complete -o default -F _torpor torpor`;
  return shell === "bash" ? script : `autoload -U +X bashcompinit && bashcompinit\n${script}`;
}
