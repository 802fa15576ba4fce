/** `torpor down`: ends the daemon and leaves the sandboxes as they are. */
import type { Command } from "commander";
import type { DaemonInfo } from "../daemon-answers.ts";
import { endDaemonProcess } from "../daemon-process.ts";
import type { Session } from "../session.ts";

export function addDown(program: Command, session: Session): void {
  program
    .command("down")
    .description("end the daemon; sandboxes that run go on running")
    .option("--json", "print what was ended as JSON")
    .action(async () => down(session));
}

async function down(session: Session): Promise<void> {
  const { client, output } = session;
  if (!(await client.isAnswering())) {
    if (session.asJson) output.printJson({ ended: false });
    else output.print("No daemon runs.");
    return;
  }
  const info: DaemonInfo = await client.describe();
  const running = (await client.list()).filter(({ pid }) => pid !== null).length;
  await output.busy("waiting for the daemon to end", endDaemonProcess(client, info.pid));
  if (session.asJson) {
    output.printJson({ ended: true, pid: info.pid, runningSandboxes: running });
    return;
  }
  output.print(`The daemon (process ${info.pid}) has ended.`);
  if (running > 0) {
    const [what, pronoun] =
      running === 1 ? ["1 sandbox runs", "it"] : [`${running} sandboxes run`, "them"];
    output.print(`${what} on; the next daemon takes ${pronoun} over. \`torpor up\` starts one.`);
  }
}
