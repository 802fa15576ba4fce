/** `torpor create`: a sandbox that stays. */
import type { Command } from "commander";
import { makeSandboxes } from "../interrupted-making.ts";
import { type LifetimeOptions, addLifetimeOptions, lifetimeOf } from "../lifetime-options.ts";
import { timingRows } from "../server-timing.ts";
import type { Session } from "../session.ts";
import { collect, parseEnv, parsePairs } from "../usage.ts";

interface CreateOptions extends LifetimeOptions {
  readonly template: string;
  readonly env?: readonly string[];
  readonly metadata?: readonly string[];
  readonly timing?: boolean;
}

/** Adds `torpor create` to the program. */
export function addCreate(program: Command, session: Session): void {
  const command = program
    .command("create")
    .description("create a sandbox and print its id")
    .option("--template <name>", "what it is made from: a template or a snapshot", "base")
    .option("-e, --env <K=V>", "set a variable in it; repeat for more", collect)
    .option("-m, --metadata <K=V>", "note something about it; repeat for more", collect);
  addLifetimeOptions(command)
    .option("--timing", "print how long each step took, to standard error")
    .option("--json", "print the sandbox as JSON")
    .addHelpText(
      "after",
      `
Examples:
  ID=$(torpor create -m task=review) && torpor exec -t $ID
  torpor create -e TOKEN --timing
  torpor create --timeout 2h --on-timeout pause --idle-timeout 10m`,
    )
    .action(async (options: CreateOptions) => create(session, options));
}

async function create(session: Session, options: CreateOptions): Promise<void> {
  const { output } = session;
  const env = parseEnv(options.env, session.env);
  const metadata = parsePairs(options.metadata, "--metadata");
  const lifetime = lifetimeOf(options);
  await makeSandboxes(session, {
    make: () => session.create({ template: options.template, env, metadata, lifetime }),
    idsOf: ({ id }) => [id],
    tell: async ({ id, timings }) => {
      if (session.asJson) output.printJson({ ...(await session.client.look(id)), timings });
      else output.print(id);
      if (options.timing === true && !session.asJson) output.noteTable(timingRows(timings));
    },
  });
}
