/** `torpor create`: a sandbox that stays. */
import type { Command } from "commander";
import { timingRows } from "../server-timing.ts";
import type { Session } from "../session.ts";
import { collect, parseEnv, parsePairs } from "../usage.ts";

interface CreateOptions {
  readonly template: string;
  readonly env?: readonly string[];
  readonly metadata?: readonly string[];
  readonly timing?: boolean;
}

export function addCreate(program: Command, session: Session): void {
  program
    .command("create")
    .description("create a sandbox and print its id")
    .option("--template <name>", "what it is made from", "base")
    .option("-e, --env <K=V>", "set a variable in it; repeat for more", collect)
    .option("-m, --metadata <K=V>", "note something about it; repeat for more", collect)
    .option("--timing", "print how long each step took, to standard error")
    .option("--json", "print the sandbox as JSON")
    .addHelpText(
      "after",
      `
Examples:
  ID=$(torpor create -m task=review) && torpor exec -t $ID
  torpor create -e TOKEN --timing`,
    )
    .action(async (options: CreateOptions) => create(session, options));
}

async function create(session: Session, options: CreateOptions): Promise<void> {
  const { output } = session;
  const env = parseEnv(options.env, session.env);
  const metadata = parsePairs(options.metadata, "--metadata");
  const { id, timings } = await session.create(options.template, env, metadata);
  if (session.asJson) {
    output.printJson({ ...(await session.client.look(id)), timings });
    return;
  }
  output.print(id);
  if (options.timing === true) output.noteTable(timingRows(timings));
}
