/**
 * `torpor uninstall`: removes what set-up and the daemon put on this machine.
 *
 * It removes in this order, so that a failed run can be repeated: sandboxes, as only a daemon can
 * remove them; the daemon; its folders and its key; what set-up put elsewhere. In the folders it
 * removes only entries whose names it knows: a folder may be the user's own. The checkout and the
 * Debian packages stay.
 */
import { readdir, rm, rmdir, stat } from "node:fs/promises";
import { dirname, join } from "node:path";
import type { Command } from "commander";
import { cacheEntryPattern, defaultKeyFile, stateEntryPattern, stateFiles } from "@torpor/storage";
import { endDaemonProcess } from "../daemon-process.ts";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { hasLauncher, removeLauncher } from "../launcher.ts";
import { type Session, forEach } from "../session.ts";
import { usageError } from "../usage.ts";

interface UninstallOptions {
  readonly yes?: boolean;
}

interface Places {
  readonly stateFolder: string;
  readonly cacheFolder: string;
  readonly keyFile: string;
  readonly aptSource: string;
  readonly launcher: string;
}

/** Adds `torpor uninstall` to the program. */
export function addUninstall(program: Command, session: Session): void {
  program
    .command("uninstall")
    .description("remove all sandboxes, the daemon and its folders from this machine")
    .option("--yes", "do it; without, what would go is listed")
    .addHelpText(
      "after",
      `
The checkout and the Debian packages stay. Another daemon of this user that has the same cache
or the same key file loses them, too.`,
    )
    .action(async (options: UninstallOptions) => {
      // Loaded here: the module is large, and few verbs need it.
      const { backportsPath } = await import("@torpor/setup");
      await uninstall(session, options, {
        stateFolder: session.stateFolder,
        cacheFolder: session.cacheFolder,
        keyFile: defaultKeyFile(session.env),
        aptSource: session.aptSourcePath ?? backportsPath,
        launcher: session.launcherPath,
      });
    });
}

async function uninstall(
  session: Session,
  { yes = false }: UninstallOptions,
  places: Places,
): Promise<void> {
  const { output } = session;
  if (!yes) {
    output.print("These would go, with every sandbox and snapshot:");
    const { launcher, ...others } = places;
    for (const path of Object.values<string>(others)) {
      if (await isThere(path)) output.print(`  ${path}`);
    }
    if (await hasLauncher(launcher)) output.print(`  ${launcher}`);
    throw usageError("nothing was removed", "Say `torpor uninstall --yes` to remove it all.");
  }
  session.exitCode = await interruptible(output, async (interrupt) => {
    const sandboxes = join(places.stateFolder, stateFiles.sandboxes);
    const isNeeded = (await readdir(sandboxes).catch(() => [])).length > 0;
    if (isNeeded) await removeSandboxes(session, interrupt);
    if (await session.client.isAnswering()) await endDaemon(session, interrupt);
    await removeEntries(session, places.stateFolder, stateEntryPattern);
    await removeEntries(session, places.cacheFolder, cacheEntryPattern);
    for (const path of [places.keyFile, places.aptSource]) await removeFile(session, path);
    await rmdir(dirname(places.keyFile)).catch(() => undefined);
    if (await removeLauncher(places.launcher)) output.print(`removed ${places.launcher}`);
    return 0;
  });
}

async function removeSandboxes(session: Session, interrupt: Interrupt): Promise<void> {
  const daemon = await session.daemon();
  await forEach(session, interrupt, await daemon.list(), async ({ id }) => {
    await session.awaitDaemon(interrupt, `removing ${id}`, daemon.remove(id));
    session.output.print(`removed sandbox ${id}`);
  });
}

async function endDaemon({ client, output }: Session, interrupt: Interrupt): Promise<void> {
  const { pid } = await client.describe();
  await interrupt.race(endDaemonProcess(client, pid, 0));
  output.print(`ended the daemon (process ${pid})`);
}

/** Removes our entries, and then the folder itself, unless it holds anything else. */
async function removeEntries({ output }: Session, folder: string, ours: RegExp): Promise<void> {
  const names = await readdir(folder).catch(() => undefined);
  if (names === undefined) return;
  for (const name of names) {
    if (ours.test(name)) await rm(join(folder, name), { recursive: true, force: true });
  }
  const rest = await readdir(folder);
  if (rest.length > 0) {
    output.note(`${folder} stays: ${rest.join(", ")} in it is not Torpor's.`);
    return;
  }
  await rmdir(folder);
  output.print(`removed ${folder}`);
}

async function removeFile({ output }: Session, path: string): Promise<void> {
  if (!(await isThere(path))) return;
  await rm(path);
  output.print(`removed ${path}`);
}

async function isThere(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}
