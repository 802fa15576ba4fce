/** `torpor keys`: API keys for clients that connect by TCP, such as the E2B SDKs. */
import type { Command } from "commander";
import { TorporError, nearestName } from "@torpor/std";
import type { ApiKeyInfo } from "../daemon-answers.ts";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { shownAge } from "../output.ts";
import { type Session, forEach } from "../session.ts";
import { keyLines } from "./up.ts";

/** Adds `torpor keys` and its parts to the program. */
export function addKeys(program: Command, session: Session): void {
  const keys = program
    .command("keys")
    .description("list, create and remove API keys")
    .helpCommand(false);
  keys
    .command("ls")
    .description("list the API keys")
    .option("--json", "print the list as JSON")
    .action(async () => list(session));
  keys
    .command("create")
    .description("create an API key; it is shown only once")
    .argument("<name>", "what it is for")
    .option("--json", "print it as JSON")
    .action(async (name: string) => create(session, name));
  keys
    .command("rm")
    .description("remove API keys; they let nobody in from then on")
    .argument("<key...>", "names or ids")
    .option("--json", "print the ids of what was removed as JSON")
    .action(async (references: readonly string[]) => remove(session, references));
}

async function list(session: Session): Promise<void> {
  const { output } = session;
  const keys = await (await session.daemon()).apiKeys();
  if (session.asJson) {
    output.printJson(keys);
    return;
  }
  const now = Date.now();
  output.printTable(
    ["NAME", "KEY", "AGE", "ID"],
    keys.map(({ id, name, prefix, createdAtMs }) => [
      name,
      `${prefix}…`,
      shownAge(createdAtMs, now),
      id,
    ]),
  );
}

async function create(session: Session, name: string): Promise<void> {
  const { output } = session;
  const daemon = await session.daemon();
  session.exitCode = await interruptible(output, async (interrupt) => {
    const info = await daemon.describe();
    // An interrupt does not cancel this: the key is shown only now.
    const key = await daemon.createApiKey(name);
    if (session.asJson) output.printJson(key);
    else for (const line of keyLines(key.key, info)) output.print(line);
    await output.settled();
    return interrupt.exitCode;
  });
}

async function remove(session: Session, references: readonly string[]): Promise<void> {
  const { output } = session;
  const daemon = await session.daemon();
  const keys = await daemon.apiKeys();
  const chosen = [...new Set(references.map((reference) => findKey(reference, keys)))];
  const removed: string[] = [];
  const work = async (interrupt: Interrupt): Promise<number> => {
    await forEach(session, interrupt, chosen, async ({ id, name }) => {
      await session.awaitDaemon(interrupt, `removing ${name}`, daemon.removeApiKey(id));
      removed.push(id);
      if (!session.asJson) output.print(name);
    });
    return 0;
  };
  try {
    session.exitCode = await interruptible(output, work);
  } finally {
    if (session.asJson) output.printJson(removed);
  }
}

/**
 * Finds a key by its id or name. @throws argument.invalid when no key, or several, have that name
 */
function findKey(wanted: string, keys: readonly ApiKeyInfo[]): ApiKeyInfo {
  const [match, ...others] = keys.filter(({ id, name }) => id === wanted || name === wanted);
  if (match !== undefined && others.length === 0) return match;
  if (match !== undefined) {
    const ids = [match, ...others].map(({ id }) => id).join(", ");
    throw new TorporError("argument.invalid", `several keys are named ${wanted}: ${ids}`, {
      advice: "Name it by its id.",
    });
  }
  const nearest = nearestName(
    wanted,
    keys.map(({ name }) => name),
  );
  throw new TorporError("argument.invalid", `no API key is named ${wanted}`, {
    advice: nearest === undefined ? "See `torpor keys ls`." : `Did you mean ${nearest}?`,
  });
}
