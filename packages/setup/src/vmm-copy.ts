/**
 * A copy of the installed QEMU for the templates that are built with it.
 *
 * Saved device state loads into the very QEMU version that saved it, so a sandbox that sleeps
 * through an upgrade of Debian's QEMU, or its removal, would never wake. The copy holds every file
 * that a sandbox's QEMU reads: the program, its shared libraries, their loader, modules and
 * firmware. It is a layer (see layers.ts) whose key is a hash of its files: an upgrade of QEMU or
 * of a library makes another copy, and with it another template, beside the existing ones.
 */
import { chmod, copyFile, mkdir, realpath } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { Deadline, TorporError, assert, runCommand } from "@torpor/std";
import { vmmCopyFolder } from "@torpor/storage";
import {
  type CopyDescription,
  type QemuProgram,
  copiedQemu,
  copyKey,
  copyParts,
  describeFile,
  installedQemu,
  loaderCommand,
  qemuVersion,
  writeDescription,
} from "@torpor/vmm";
import { ensureLayer, exists, removeStaleStaging, removeTree, withCacheLock } from "./layers.ts";
import { type Progress, type Report, silentProgress } from "./progress.ts";

const queryBudgetMs = 20_000;
/** The set-up that holds the lock may have all of it to do. */
const lockBudgetMs = 30 * 60_000;

/**
 * Files that a microvm with a kernel on its command line loads; found by watching QEMU open its
 * files.
 */
const firmwareNames = ["bios-microvm.bin", "linuxboot_dma.bin"];
/** Some builds keep emulation in a separate module. */
const moduleNames = ["accel-tcg-x86_64.so"];
/** Relative to the program's folder. */
const modulesPath = "../lib/x86_64-linux-gnu/qemu";
/** The C library opens it by itself when a thread is cancelled, so no list names it. */
const unlistedLibrary = "libgcc_s.so.1";

/** A copy of QEMU, and how to start it. */
export interface VmmCopy {
  readonly key: string;
  readonly program: QemuProgram;
}

/** Where a copy is kept. */
export interface VmmCopyOptions {
  readonly cacheFolder: string;
  readonly progress?: Progress;
}

/** The files of a copy by their path in it, and the source of each. */
type Sources = ReadonlyMap<string, string>;

/**
 * Returns the copy of the currently installed QEMU, making it when it does not exist and repairing
 * it when it is damaged. Safe to run twice at once: the second call waits.
 * @throws vmm.missing when QEMU is not installed, vmm.failed when it cannot be copied.
 */
export async function ensureVmmCopy(options: VmmCopyOptions): Promise<VmmCopy> {
  const { cacheFolder, progress = silentProgress } = options;
  const sources = await findSources();
  const description = await describe(sources);
  const key = copyKey(description);
  const folder = vmmCopyFolder(cacheFolder, key);
  const copy = { key, program: copiedQemu(folder, key) };
  if (await isSound(copy)) return copy;
  return await withCacheLock(
    cacheFolder,
    Deadline.after(lockBudgetMs, "waiting for another set-up"),
    () => progress.note("Another set-up is at work: waiting for it"),
    async () => {
      if (await isSound(copy)) return copy;
      await progress.step("Copy of QEMU", async (report) => {
        await removeStaleStaging(cacheFolder);
        // A VM that runs from the damaged copy keeps the files that it has open.
        await removeTree(folder);
        const built = await ensureLayer(cacheFolder, "vmm", key, (staged) =>
          build(staged, sources, description, report),
        );
        assert(built === folder, "the host finds the layer by this path");
      });
      return copy;
    },
  );
}

async function isSound({ program }: VmmCopy): Promise<boolean> {
  try {
    await program.verify();
    return true;
  } catch (cause) {
    if (TorporError.is(cause) && cause.code === "vmm.damaged") return false;
    throw cause;
  }
}

async function build(
  folder: string,
  sources: Sources,
  description: CopyDescription,
  report: Report,
): Promise<void> {
  let copied = 0;
  for (const [path, source] of sources) {
    report(copied / sources.size, basename(source));
    const target = join(folder, path);
    await mkdir(dirname(target), { recursive: true, mode: 0o700 });
    await copyFile(source, target);
    await chmod(target, path === copyParts.loader ? 0o500 : 0o400);
    copied += 1;
  }
  await writeDescription(folder, description);
  // An upgrade may have happened in between.
  await copiedQemu(folder, copyKey(description)).verify();
  await assertComplete(folder, sources);
}

/**
 * Checks that the copy is self-contained. @throws vmm.failed when the system would supply a library
 * after all.
 */
async function assertComplete(folder: string, sources: Sources): Promise<void> {
  for (const path of sources.keys()) {
    if (path !== copyParts.program && dirname(path) !== copyParts.modules) continue;
    const { stdout } = await query([...loaderCommand(folder), "--list", join(folder, path)]);
    const outside = parseLdd(stdout).filter(({ file }) => !file.startsWith(`${folder}/`));
    if (outside.length > 0) {
      const names = outside.map(({ file }) => file).join(", ");
      throw new TorporError("vmm.failed", `a copy of QEMU would still use ${names}`);
    }
  }
}

async function describe(sources: Sources): Promise<CopyDescription> {
  const version = await qemuVersion();
  const files = [];
  for (const [path, source] of sources) files.push(await describeFile(path, source));
  return { version, files };
}

async function findSources(): Promise<Sources> {
  const program = await findProgram();
  const modules = await findModules(program);
  const libraries = await findLibraries([program, ...modules]);
  const firmware = await findFirmware();
  return new Map([
    [copyParts.program, program],
    ...modules.map((path) => [join(copyParts.modules, basename(path)), path] as const),
    ...libraries,
    ...firmware.map((path) => [join(copyParts.firmware, basename(path)), path] as const),
  ]);
}

async function findProgram(): Promise<string> {
  const [name] = installedQemu().command;
  try {
    const { stdout } = await query(["which", name]);
    return await realpath(stdout.trim());
  } catch (cause) {
    throw new TorporError("vmm.missing", "QEMU is not installed", { cause });
  }
}

async function findModules(program: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const name of moduleNames) {
    const path = join(dirname(program), modulesPath, name);
    if (await exists(path)) found.push(path);
  }
  return found;
}

/** Finds the shared libraries of these programs, and the loader, by their paths in a copy. */
async function findLibraries(
  programs: readonly string[],
): Promise<readonly (readonly [string, string])[]> {
  const found = parseLdd(await listLibraries(programs));
  const c = found.find(({ name }) => name === "libc.so.6");
  if (c === undefined) throw uncopyable("it is not a program of the C library");
  return [
    ...found.map(
      ({ name, file }) =>
        [name === undefined ? copyParts.loader : join(copyParts.libraries, name), file] as const,
    ),
    [join(copyParts.libraries, unlistedLibrary), join(dirname(c.file), unlistedLibrary)],
  ];
}

async function listLibraries(programs: readonly string[]): Promise<string> {
  try {
    return (await query(["ldd", ...programs])).stdout;
  } catch (cause) {
    throw uncopyable(TorporError.from(cause, "vmm.failed").rawMessage, cause);
  }
}

async function findFirmware(): Promise<readonly string[]> {
  const { stdout } = await query([...installedQemu().command, "-L", "help"]);
  const folders = stdout.trim().split("\n");
  return await Promise.all(
    firmwareNames.map(async (name) => {
      for (const folder of folders) {
        if (await exists(join(folder, name))) return join(folder, name);
      }
      throw uncopyable(`its firmware ${name} is in none of ${folders.join(", ")}`);
    }),
  );
}

/** A shared library, as the loader resolves it. */
export interface LoadedLibrary {
  /**
   * The name by which programs request it; undefined for the loader, which they name by its path.
   */
  readonly name: string | undefined;
  readonly file: string;
}

/**
 * Parses the output of `ldd` or of the loader's `--list`, once for each program. Libraries that the
 * kernel itself provides have no file. @throws vmm.failed naming a library that is not installed.
 */
export function parseLdd(text: string): readonly LoadedLibrary[] {
  const missing = /^\s*(\S+) => not found/m.exec(text)?.[1];
  if (missing !== undefined) throw uncopyable(`its library ${missing} is not installed`);
  const byFile = new Map<string, LoadedLibrary>();
  for (const [, asked = "", found] of text.matchAll(/^\s+(\S+)(?: => (\S+))? \(0x/gm)) {
    const file = found ?? asked;
    const isLoader = asked.startsWith("/");
    if (file.startsWith("/")) byFile.set(file, { name: isLoader ? undefined : asked, file });
  }
  return [...byFile.values()];
}

function uncopyable(why: string, cause?: unknown): TorporError {
  return new TorporError("vmm.failed", `the installed QEMU cannot be copied: ${why}`, {
    cause,
    effect: "none",
    advice: "Install Debian's qemu-system-x86 with what it depends on, and take others off PATH.",
  });
}

async function query(argv: readonly [string, ...string[]]): Promise<{ readonly stdout: string }> {
  return await runCommand(argv, Deadline.after(queryBudgetMs, `running ${argv[0]}`));
}
