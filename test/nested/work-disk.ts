/**
 * The disk with what is tested: this checkout as it is, with its node_modules, the files that every
 * template is made of, and what the machine is to run.
 *
 * It is an ext4 image made of a folder in which all of these are mounted, in a mount namespace that
 * ends with the program which makes it. So nothing is copied twice, and nothing is left mounted.
 */
import { copyFile, mkdir, mkdtemp, readdir, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { type Deadline, runCommand } from "@torpor/std";
import { workScript } from "./machine.ts";

/** LIMIT: templates of two VMMs, and what the sandboxes of one test file leave until it ends. */
const workDiskBytes = 24 * 1024 ** 3;
/** Of a checkout, what no test reads. */
const leftOut: readonly string[] = [".git"];

export interface WorkDisk {
  readonly outPath: string;
  readonly checkout: string;
  /** Folders of the cache that set-up shall find, below `cache`. */
  readonly layers: readonly string[];
  /** Programs that are none of Debian's, for `bin`. */
  readonly programs: readonly string[];
  readonly script: string;
}

export async function buildWorkDisk(
  { outPath, checkout, layers, programs, script }: WorkDisk,
  deadline: Deadline,
): Promise<void> {
  await using undo = new AsyncDisposableStack();
  const root = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-work-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
  await writeFile(join(root, workScript), script, { mode: 0o755 });
  await mkdir(join(root, "bin"));
  for (const path of programs) await copyFile(path, join(root, "bin", basename(path)));
  const parts = (await readdir(checkout)).filter((name) => !leftOut.includes(name));
  const mounts: string[] = [];
  const place = async (source: string, target: string): Promise<void> => {
    const isFolder = (await stat(source)).isDirectory();
    await mkdir(isFolder ? target : dirname(target), { recursive: true });
    if (!isFolder) await writeFile(target, "");
    mounts.push(source, target);
  };
  for (const name of parts) await place(join(checkout, name), join(root, "checkout", name));
  for (const path of layers) await place(path, join(root, "cache", basename(path)));
  await writeFile(outPath, "");
  await truncate(outPath, workDiskBytes);
  const bindAndMake = [
    'while [ $# -gt 2 ]; do mount --bind "$1" "$2"; shift 2; done',
    'exec mke2fs -q -F -t ext4 -m 0 -E lazy_itable_init=0,nodiscard -d "$1" "$2"',
  ].join("\n");
  await runCommand(
    [
      ...(["setpriv", "--pdeathsig", "KILL", "unshare", "--mount"] as const),
      ...["sh", "-ec", bindAndMake, "sh"],
      ...[...mounts, root, outPath],
    ],
    deadline,
  );
}
