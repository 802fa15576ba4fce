/** `torpor down`: ends the daemon, and leaves the sandboxes as they are or pauses them first. */
import { writeFile } from "node:fs/promises";
import { join } from "node:path";
import { ignoreFailure } from "@torpor/std";
import { stateFiles } from "@torpor/storage";
import type { Command } from "commander";
import type { SandboxInfo } from "../daemon-answers.ts";
import { endDaemonProcess } from "../daemon-process.ts";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { isRunningProcess } from "../process-state.ts";
import { type Session, forEach } from "../session.ts";

interface DownOptions {
  readonly pause?: boolean;
}

/** Adds `torpor down` to the program. */
export function addDown(program: Command, session: Session): void {
  program
    .command("down")
    .description("end the daemon; sandboxes that run go on running")
    .option("--pause", "put all sandboxes that run to sleep first")
    .option("--json", "print what was ended as JSON")
    .addHelpText(
      "after",
      `
Ends the daemon also when a sandbox could not be put to sleep: that one runs on, and the exit
code is 1. Where the daemon was started with TORPOR_ON_STOP=pause, it pauses them itself.`,
    )
    .action(async (options: DownOptions) => down(session, options));
}

async function down(session: Session, options: DownOptions): Promise<void> {
  const { client, output } = session;
  if (!(await client.isAnswering())) {
    if (session.asJson) output.printJson({ ended: false });
    else output.print("No daemon runs.");
    // A supervisor may be about to restart a daemon that crashed.
    await ignoreFailure(
      "without a state folder there is no supervisor",
      writeFile(join(session.stateFolder, stateFiles.down), "", { mode: 0o600 }),
    );
    return;
  }
  const paused: string[] = [];
  session.exitCode = await interruptible(output, async (interrupt) => {
    try {
      if (options.pause === true) await pauseRunning(session, interrupt, paused);
    } finally {
      if (!interrupt.happened) await endDaemon(session, interrupt, paused);
    }
    return 0;
  });
}

/** Pauses all that run. @throws the last failure, after trying all */
async function pauseRunning(
  session: Session,
  interrupt: Interrupt,
  paused: string[],
): Promise<void> {
  const { client, output } = session;
  await forEach(session, interrupt, await listRunning(session), async ({ id }) => {
    await session.awaitDaemon(interrupt, `pausing ${id}`, client.pause(id));
    paused.push(id);
    if (!session.asJson) output.print(`${id} paused`);
  });
}

async function endDaemon(
  session: Session,
  interrupt: Interrupt,
  paused: readonly string[],
): Promise<void> {
  const { client, output } = session;
  const { pid } = await client.describe();
  const before = await listRunning(session);
  const ending = endDaemonProcess(client, pid, before.length);
  await session.awaitDaemon(interrupt, "to its end", ending);
  // Checked from here: a daemon may pause them when it ends.
  const running = before.filter((one) => one.pid !== null && isRunningProcess(one.pid));
  if (session.asJson) {
    output.printJson({
      ended: true,
      pid,
      paused,
      runningSandboxes: running.length,
      running: running.map(({ id }) => id),
    });
    return;
  }
  output.print(`The daemon (process ${pid}) has ended.`);
  for (const line of runningLines(running)) output.print(line);
}

async function listRunning({ client }: Session): Promise<readonly SandboxInfo[]> {
  return (await client.list()).filter(({ pid }) => pid !== null);
}

function runningLines(running: readonly SandboxInfo[]): readonly string[] {
  if (running.length === 0) return [];
  const [what, pronoun] =
    running.length === 1 ? ["1 sandbox runs", "it"] : [`${running.length} sandboxes run`, "them"];
  return [
    `${what} on; the next daemon takes ${pronoun} over. \`torpor up\` starts one.`,
    ...running.map(({ id }) => `  ${id}`),
  ];
}
