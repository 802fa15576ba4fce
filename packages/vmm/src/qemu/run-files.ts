/**
 * What lies in the folder of a VM's run.
 *
 * SAFETY: the folder is the VM process's own, and a hole in QEMU may have put anything in the place of a
 * file: a link to a file of the host's, or a pipe that never gives an answer. Nothing in it is opened but
 * by `openRunFile`.
 */
import { constants } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { systemCode } from "@torpor/std";

export const runFiles = {
  control: "qmp.sock",
  console: "console.log",
  log: "vmm.log",
} as const;

const { O_RDONLY, O_WRONLY, O_NOFOLLOW, O_NONBLOCK } = constants;

/** @throws system error ELOOP when it is a link, ENOENT when there is none */
export async function openRunFile(path: string, access: "read" | "write"): Promise<FileHandle> {
  const flags = access === "read" ? O_RDONLY : O_WRONLY;
  return await open(path, flags | O_NOFOLLOW | O_NONBLOCK);
}

/** The end of a log, which a guest may have made as long as it likes; empty when there is none. */
export async function readTail(path: string, bytesMax: number): Promise<string> {
  try {
    await using file = await openRunFile(path, "read");
    const { size } = await file.stat();
    const length = Math.min(size, bytesMax);
    const { buffer } = await file.read(Buffer.alloc(length), 0, length, size - length);
    return buffer.toString("utf8");
  } catch (error) {
    if (systemCode(error) === "ENOENT") return "";
    throw error;
  }
}
