/** `torpor timeout`: sets how long a sandbox may still run. */
import type { Command } from "commander";
import { type Duration, parseDuration, toMs } from "../duration.ts";
import { shownEnd } from "../lifetime-text.ts";
import type { Session } from "../session.ts";

/** Adds `torpor timeout` to the program. */
export function addTimeout(program: Command, session: Session): void {
  program
    .command("timeout")
    .description("set how long a sandbox may run from now on")
    .argument("<id>", "sandbox, by the first characters of its id")
    .argument("<time>", "90s, 5m, 2h, 1d, or never", parseDuration)
    .option("--json", "print the sandbox as JSON")
    .addHelpText(
      "after",
      `
Takes the place of what was left, shorter or longer. What happens at the end was said when the
sandbox was made. The time of one that sleeps begins when it wakes.

Examples:
  torpor timeout ID 10m
  torpor timeout ID never`,
    )
    .action(async (id: string, time: Duration) => changeTimeout(session, id, time));
}

async function changeTimeout(session: Session, wanted: string, time: Duration): Promise<void> {
  const { output, client } = session;
  const { id } = await session.find(wanted);
  await output.busy(`setting the timeout of ${id}`, client.setTimeout(id, toMs(time)));
  const sandbox = await client.look(id);
  if (session.asJson) output.printJson(sandbox);
  else output.print(`${id} ends ${shownEnd(sandbox, Date.now())}`);
}
