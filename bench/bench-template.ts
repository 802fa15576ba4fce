/**
 * The base template with a memory size and a last command of its own, in a cache folder that is
 * removed with it.
 */
import {
  type GuestCommand,
  baseImage,
  ensureVmmCopy,
  prepareTemplate,
  silentProgress,
} from "@torpor/setup";
import { TemplateStore, templatesFolder } from "@torpor/storage";
import { temporaryFolder } from "./temporary-folder.ts";

/** Makes the template. @returns the cache folder, for a daemon */
export async function makeTemplate(
  cacheFolder: string,
  memoryMiB: number,
  lastCommand: GuestCommand,
  undo: AsyncDisposableStack,
): Promise<string> {
  const usual = await new TemplateStore(templatesFolder(cacheFolder)).open("base");
  const folder = await temporaryFolder(undo);
  await prepareTemplate({
    cacheFolder: folder,
    base: await baseImage(cacheFolder),
    vmm: await ensureVmmCopy({ cacheFolder: folder }),
    accelerator: usual.manifest.identity.accelerator,
    progress: silentProgress,
    memoryMiB,
    lastCommands: [lastCommand],
  });
  return folder;
}
