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

export interface QemuProgram {
  /** Comes before QEMU's own arguments. */
  readonly command: readonly [string, ...string[]];
  /** Added to the environment. */
  readonly env: Readonly<Record<string, string>>;
  /** Reads every file of a copy, until they were once found to be as they should. @throws vmm.damaged */
  verify(): Promise<void>;
}

/** @param command Name or path. */
export function installedQemu(command = programName): QemuProgram {
  return { command: [command], env: {}, verify: () => Promise.resolve() };
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
