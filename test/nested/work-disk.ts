/**
 * The disks of the machine besides its own. One has what is tested: this checkout as it is, with its
 * node_modules, the files that every template is made of, and what the machine is to run. It is made
 * anew for each run. The other is Torpor's cache in there: it stays, because what is in it takes the
 * machine half an hour to make, and is named by a hash of all that went in.
 *
 * The first is an ext4 image made of a folder in which all of these are mounted, in a mount namespace that
 * ends with the program which makes it. So nothing is copied twice, and nothing is left mounted.
 */
import {
  copyFile,
  mkdir,
  mkdtemp,
  readdir,
  rename,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { type Deadline, runCommand } from "@torpor/std";
import { layersFolder, strippedFolder, workScript } from "./machine.ts";
import { stripCheckout } from "./strip.ts";

/** LIMITS: what the sandboxes of a test file leave until it ends; templates of two VMMs, again and again. */
const workDiskBytes = 16 * 1024 ** 3;
const cacheDiskBytes = 32 * 1024 ** 3;
const mke2fsOptions = ["-q", "-F", "-t", "ext4", "-m", "0", "-E", "lazy_itable_init=0,nodiscard"];
/** Of a checkout, what no test reads. */
const leftOut: readonly string[] = [".git"];

export interface WorkDisk {
  readonly outPath: string;
  readonly checkout: string;
  /** Folders of the host's cache that set-up shall find in its own. */
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
  await stripCheckout(checkout, join(root, strippedFolder));
  const parts = (await readdir(checkout)).filter((name) => !leftOut.includes(name));
  const mounts: string[] = [];
  const place = async (source: string, target: string): Promise<void> => {
    const isFolder = (await stat(source)).isDirectory();
    await mkdir(isFolder ? target : dirname(target), { recursive: true });
    if (!isFolder) await writeFile(target, "");
    mounts.push(source, target);
  };
  for (const name of parts) await place(join(checkout, name), join(root, "checkout", name));
  for (const path of layers) await place(path, join(root, layersFolder, basename(path)));
  await makeSparse(outPath, workDiskBytes);
  const options = mke2fsOptions.join(" ");
  const bindAndMake = [
    'while [ $# -gt 2 ]; do mount --bind "$1" "$2"; shift 2; done',
    `exec mke2fs ${options} -d "$1" "$2"`,
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

/** Safe to repeat: one that is there stays as it is. */
export async function ensureCacheDisk(path: string, deadline: Deadline): Promise<void> {
  if ((await stat(path).catch(() => undefined)) !== undefined) return;
  const staged = `${path}.staged`;
  await makeSparse(staged, cacheDiskBytes);
  await runCommand(["mke2fs", ...mke2fsOptions, staged], deadline);
  await rename(staged, path);
}

async function makeSparse(path: string, bytes: number): Promise<void> {
  await writeFile(path, "");
  await truncate(path, bytes);
}
