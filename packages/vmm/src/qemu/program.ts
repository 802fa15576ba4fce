/**
 * Chooses the QEMU to start, and how: the installed one, or a copy with everything that it needs.
 *
 * A copy keeps working whatever happens to the installed QEMU and to the system's libraries. It is
 * started through a loader of its own, because a C library runs only under the loader it was built
 * with; copy-files.ts lists the files in its folder.
 */
import { join } from "node:path";
import { copyParts, verifyCopy } from "./copy-files.ts";

/** Also the name by which a copy refers to itself in its messages. */
const programName = "qemu-system-x86_64";

/** The folders in which Debian keeps programs, libraries and their loader. */
const systemFolders = ["/usr", "/lib", "/lib64"];

/** A QEMU program, and how to start it. */
export interface QemuProgram {
  /** Comes before QEMU's own arguments. */
  readonly command: readonly [string, ...string[]];
  /**
   * The folders of the program and of all it loads. A copy's folder is ours; others are left as
   * they are.
   */
  readonly folders: readonly { readonly path: string; readonly isOurs: boolean }[];
  /** Added to the environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Checks every file of a copy, until they were once found intact. @throws vmm.damaged */
  verify(): Promise<void>;
}

/** The QEMU that the system has installed. @param command Name or path. */
export function installedQemu(command = programName): QemuProgram {
  const folders = systemFolders.map((path) => ({ path, isOurs: false }));
  return { command: [command], folders, env: {}, verify: () => Promise.resolve() };
}

/** The copy that set-up made under this key. `verify` checks it; this function does not. */
export function copiedQemu(folder: string, key: string): QemuProgram {
  let sound: Promise<void> | undefined;
  const verify = (): Promise<void> =>
    (sound ??= verifyCopy(folder, key).catch((cause: unknown) => {
      sound = undefined; // a later call checks again, as the copy may have been repaired
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
    // QEMU searches it before the folder that was built in.
    env: { QEMU_MODULE_DIR: join(folder, copyParts.modules) },
    verify,
  };
}

/**
 * The copy's loader. Append a program, or `--list` and a program to see which libraries it gets.
 */
export function loaderCommand(folder: string): readonly [string, ...string[]] {
  return [
    join(folder, copyParts.loader),
    "--inhibit-cache", // the system's list of libraries
    ...["--library-path", join(folder, copyParts.libraries)],
  ];
}
