/**
 * Which QEMU is started, and how: the installed one, or a copy with everything that it needs.
 *
 * A copy runs alike whatever becomes of the installed QEMU and of the system's libraries. It is
 * started through a loader of its own, because a C library runs under the very loader it was built
 * with only; what is in its folder, copy-files.ts says.
 */
import { join } from "node:path";
import { copyParts, verifyCopy } from "./copy-files.ts";

/** Also what a copy calls itself, in its messages. */
const programName = "qemu-system-x86_64";

/** In which Debian keeps programs, libraries and their loader. */
const systemFolders = ["/usr", "/lib", "/lib64"];

export interface QemuProgram {
  /** Comes before QEMU's own arguments. */
  readonly command: readonly [string, ...string[]];
  /** The folders that it and all it loads lie in. Those of a copy are ours; others stay as they are. */
  readonly folders: readonly { readonly path: string; readonly isOurs: boolean }[];
  /** Added to the environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Reads every file of a copy, until they were once found to be as they should. @throws vmm.damaged */
  verify(): Promise<void>;
}

/** @param command Name or path. */
export function installedQemu(command = programName): QemuProgram {
  const folders = systemFolders.map((path) => ({ path, isOurs: false }));
  return { command: [command], folders, env: {}, verify: () => Promise.resolve() };
}

/** The copy that set-up made under this key. It is looked at by `verify`, not before. */
export function copiedQemu(folder: string, key: string): QemuProgram {
  let sound: Promise<void> | undefined;
  const verify = (): Promise<void> =>
    (sound ??= verifyCopy(folder, key).catch((cause: unknown) => {
      sound = undefined; // it may be mended
      throw cause;
    }));
  return {
    command: [
      ...loaderCommand(folder),
      ...["--argv0", programName],
      join(folder, copyParts.program),
      ...["-L", join(folder, copyParts.firmware)],
    ],
    folders: [{ path: folder, isOurs: true }],
    // Looked through before the folder that was built into QEMU.
    env: { QEMU_MODULE_DIR: join(folder, copyParts.modules) },
    verify,
  };
}

/** The copy's loader; what follows is a program, or `--list` and one to see which libraries it gets. */
export function loaderCommand(folder: string): readonly [string, ...string[]] {
  return [
    join(folder, copyParts.loader),
    "--inhibit-cache", // the system's list of libraries
    ...["--library-path", join(folder, copyParts.libraries)],
  ];
}
