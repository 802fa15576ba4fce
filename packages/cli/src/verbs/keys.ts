/** `torpor keys`: API keys for clients that come by TCP, such as the E2B SDKs. */
import type { Command } from "commander";
import { shownAge } from "../output.ts";
import type { Session } from "../session.ts";
import { keyLines } from "./up.ts";

export function addKeys(program: Command, session: Session): void {
  const keys = program.command("keys").description("list and create API keys").helpCommand(false);
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
  const key = await daemon.createApiKey(name);
  if (session.asJson) {
    output.printJson(key);
    return;
  }
  for (const line of keyLines(key.key, (await daemon.describe()).url)) output.print(line);
}
