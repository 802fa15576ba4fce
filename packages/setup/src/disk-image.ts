/**
 * Makes the disk that every sandbox starts from: an ext4 image of a folder, without mounting
 * anything.
 *
 * The file is sparse: it takes the space of its content, and reads as the full size. It has a
 * journal, so that a guest that loses power comes back, but a small one, because every block of it
 * that the guest writes ends up in the sandbox's overlay.
 */
import { truncate, writeFile } from "node:fs/promises";
import { type Deadline, assert, runCommand } from "@torpor/std";
import { sourceDateEpoch } from "./rootfs.ts";

/** The size of the disk that a guest sees. */
export const diskBytesDefault = 4 * 1024 ** 3;
/** LIMIT: below this the packages do not fit. */
const diskBytesMin = 1024 ** 3;
const journalMiB = 16;
/** Fixed, so that the same content gives the same image. Nothing finds disks by it. */
const fileSystemUuid = "746f7270-6f72-4000-8000-726f6f740001";

/** Input and output of `buildDiskImage`. */
export interface DiskImageOptions {
  /** The tree to copy; ownership and modes are kept. */
  readonly rootDir: string;
  readonly outPath: string;
  readonly diskBytes?: number;
}

/** Writes the image. @throws command.failed */
export async function buildDiskImage(options: DiskImageOptions, deadline: Deadline): Promise<void> {
  const { rootDir, outPath, diskBytes = diskBytesDefault } = options;
  assert(diskBytes >= diskBytesMin && diskBytes % 4096 === 0, "a disk needs whole 4 KiB blocks");
  // e2fsprogs counts a new sparse file as zeroed, so the inode tables are marked done and the guest
  // starts no thread to write them.
  const extended = [
    "root_owner=0:0",
    `hash_seed=${fileSystemUuid}`,
    "assume_storage_prezeroed=1",
    "lazy_itable_init=0",
    "lazy_journal_init=0",
    "nodiscard",
  ];
  await writeFile(outPath, "");
  await truncate(outPath, diskBytes);
  await runCommand(
    [
      ...(["mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0"] as const),
      ...["-L", "torpor-root", "-U", fileSystemUuid, "-J", `size=${journalMiB}`],
      ...["-E", extended.join(","), "-d", rootDir, outPath],
    ],
    deadline,
    {
      env: {
        E2FSPROGS_FAKE_TIME: String(sourceDateEpoch),
        SOURCE_DATE_EPOCH: String(sourceDateEpoch),
      },
    },
  );
}
