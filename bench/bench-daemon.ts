/** A daemon for a benchmark, over a folder of its own that is removed with it. */
import { join } from "node:path";
import { processClient } from "@torpor/guest";
import { type Daemon, type Sandbox, startDaemon } from "@torpor/host";
import { silentLogger } from "@torpor/std";
import { keyFileName } from "@torpor/storage";
import { temporaryFolder } from "./temporary-folder.ts";

/** Starts a daemon in this process; `undo` ends it. By default it keeps no spare sandboxes. */
export async function openBenchDaemon(
  cacheFolder: string,
  undo: AsyncDisposableStack,
  spareCount = 0,
): Promise<Daemon> {
  const stateFolder = await temporaryFolder(undo);
  const daemon = await startDaemon({
    stateFolder,
    cacheFolder,
    keyFile: join(stateFolder, keyFileName),
    port: 0,
    log: silentLogger,
    spareCount,
  });
  undo.use(daemon);
  return daemon;
}

/** Creates a sandbox, by default of the base template. */
export async function createSandbox(daemon: Daemon, template = "base"): Promise<Sandbox> {
  const { sandbox } = await daemon.sandboxes.create({
    template,
    metadata: {},
    envVars: {},
    lifetime: {},
  });
  return sandbox;
}

/** Runs a command in the guest and waits for its end. */
export async function runCommandIn(
  sandbox: Sandbox,
  ...argv: [string, ...string[]]
): Promise<void> {
  const { run, record } = sandbox;
  if (run === undefined) throw new Error("the sandbox is not running");
  await runToEnd(processClient(run.link, record.accessToken), ...argv);
}

/** Runs a command by the agent's process service and waits for its end. */
export async function runToEnd(
  client: ReturnType<typeof processClient>,
  cmd: string,
  ...args: string[]
): Promise<void> {
  for await (const { event } of client.start({ process: { cmd, args }, stdin: false })) {
    if (event?.event.case === "end" && event.event.value.exitCode !== 0) {
      throw new Error(`${cmd}: ${event.event.value.status}`);
    }
  }
}
