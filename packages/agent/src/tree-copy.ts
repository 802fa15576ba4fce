/**
 * Copies a file, or a folder with everything in it, as `cp -a` does: with mode, owner, times,
 * attributes, symbolic links as links, hard links among the copies, pipes and devices, and holes
 * where the files have some.
 *
 * An attribute that the other file system cannot keep is left out, as `mv` does.
 */
import type { BigIntStats } from "node:fs";
import { join } from "node:path";
import { systemCode } from "@torpor/std";
import type { FileWork } from "./file-work.ts";
import { OpenFile } from "./open-file.ts";

const copyChunkBytes = 256 << 10;
const statBlockBytes = 512n;
/** Only its owner may use a copy that is not finished. */
const unfinishedMode = 0o600;
const unfinishedFolderMode = 0o700;

/**
 * Copies `from` to `to`, which must not exist. On failure the part that was copied stays.
 * @throws system error: EBUSY when another file system is mounted inside, EINVAL when `to` lies
 *   inside `from`
 */
export async function copyTree(from: string, to: string, work: FileWork): Promise<void> {
  const { dev } = await work.lstatExact(from);
  await new TreeCopy(work, dev).copy(from, to);
}

class TreeCopy {
  readonly #work: FileWork;
  readonly #dev: bigint;
  /** The copy of each file that has several names. */
  readonly #copies = new Map<string, string>();
  /** Id of the first folder created, which contains all the others. */
  #rootCopy: string | undefined;

  constructor(work: FileWork, dev: bigint) {
    this.#work = work;
    this.#dev = dev;
  }

  async copy(from: string, to: string): Promise<void> {
    const work = this.#work;
    const stats = await work.lstatExact(from);
    if (stats.isDirectory()) {
      await this.#copyFolder(from, to, stats);
    } else {
      const id = idOf(stats);
      const copied = this.#copies.get(id);
      if (copied !== undefined) {
        await work.link(copied, to);
        return;
      }
      if (stats.nlink > 1n) this.#copies.set(id, to);
      if (stats.isFile()) await copyContent(from, to, stats, work);
      else if (stats.isSymbolicLink()) await work.symlink(await work.readlink(from), to);
      else await work.mknod(to, Number(stats.mode), Number(stats.rdev));
    }
    await copyAttributes(from, to, stats, work);
  }

  async #copyFolder(from: string, to: string, stats: BigIntStats): Promise<void> {
    if (stats.dev !== this.#dev)
      throw refusal("EBUSY", `another file system is mounted at ${from}`);
    if (idOf(stats) === this.#rootCopy) throw refusal("EINVAL", `${from} is where it should go`);
    await this.#work.mkdir(to, unfinishedFolderMode);
    this.#rootCopy ??= idOf(await this.#work.lstatExact(to));
    for await (const { name } of this.#work.entries(from)) {
      await this.copy(join(from, name), join(to, name));
    }
  }
}

async function copyContent(
  from: string,
  to: string,
  stats: BigIntStats,
  work: FileWork,
): Promise<void> {
  await using source = await OpenFile.read(from, work);
  await using target = await OpenFile.create(to, unfinishedMode, work);
  const room = Buffer.allocUnsafe(copyChunkBytes);
  const copyRange = async (start: number, end: number): Promise<void> => {
    for (let at = start; at < end;) {
      const read = await source.read(room.subarray(0, Math.min(room.length, end - at)), at);
      if (read.length === 0) return;
      await target.write(read, at);
      at += read.length;
    }
  };
  if (stats.blocks * statBlockBytes >= stats.size) {
    await copyRange(0, Infinity);
  } else {
    for (let at = 0; ;) {
      const range = await source.nextDataRange(at);
      if (range === undefined) break;
      await copyRange(range.start, range.end);
      at = range.end;
    }
    await target.truncate(Number(stats.size));
  }
  await target.close();
}

/** ORDER: chown clears capabilities and set-id bits, and every step changes the times. */
async function copyAttributes(
  from: string,
  to: string,
  stats: BigIntStats,
  work: FileWork,
): Promise<void> {
  await work.lchown(to, Number(stats.uid), Number(stats.gid));
  if (!stats.isSymbolicLink()) await work.chmod(to, Number(stats.mode & 0o7777n));
  for (const attribute of await work.readXattrs(from)) {
    try {
      await work.writeXattr(to, attribute);
    } catch (cause) {
      if (systemCode(cause) !== "ENOTSUP" && systemCode(cause) !== "EPERM") throw cause;
    }
  }
  await work.setTimes(to, stats.atimeNs, stats.mtimeNs);
}

function idOf({ dev, ino }: BigIntStats): string {
  return `${dev} ${ino}`;
}

function refusal(code: string, message: string): Error {
  return Object.assign(new TypeError(message), { code });
}
