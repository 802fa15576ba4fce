/** `torpor help`: the same as `--help`, as a verb. */
import type { Command } from "commander";
import { nearestName } from "@torpor/std";
import { usageError } from "../usage.ts";

/** Adds `torpor help` to the program. */
export function addHelp(program: Command): void {
  program
    .command("help")
    .description("show what there is, or all about a verb")
    .argument("[verb...]", "such as `create`, or `snapshot pool`")
    .action((words: readonly string[]) => {
      let command = program;
      for (const word of words) command = findPart(command, word);
      command.outputHelp();
    });
}

/** Finds the verb or part that a word names. @throws usage error */
function findPart(command: Command, word: string): Command {
  const part = command.commands.find((one) => one.name() === word);
  if (part !== undefined) return part;
  const nearest = nearestName(
    word,
    command.commands.map((one) => one.name()),
  );
  const advice = nearest === undefined ? "See `torpor help`." : `Did you mean ${nearest}?`;
  throw usageError(`there is no verb ${word}`, advice);
}
