/**
 * Small text files of the guest that the agent keeps correct. Root in the guest may have put
 * anything in their place: no call here blocks on a pipe without a reader, or reads without end.
 */
import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  writeFileSync,
} from "node:fs";
import { TorporError } from "@torpor/std";

/**
 * Reads a whole file.
 * @throws system error; internal when it is not a regular file, or too long.
 */
export function readPlainFile(path: string, bytesMax: number): string {
  using file = openPlainFile(path, constants.O_RDONLY, 0);
  if (file.bytes > bytesMax) throw new TorporError("internal", `${path} is too long`);
  return readFileSync(file.fd, "utf8");
}

/**
 * Replaces the whole content in place: programs that have the file open, mapped, watched or mounted
 * over another file see the new content. A small text is one write. `mode` is used only if the file
 * is created.
 * @throws system error; internal when it is not a regular file.
 */
export function overwritePlainFile(path: string, text: string, mode: number): void {
  using file = openPlainFile(path, constants.O_WRONLY | constants.O_CREAT, mode);
  writeFileSync(file.fd, text);
  const textBytes = Buffer.byteLength(text);
  if (file.bytes > textBytes) ftruncateSync(file.fd, textBytes);
}

interface PlainFile extends Disposable {
  readonly fd: number;
  readonly bytes: number;
}

function openPlainFile(path: string, flags: number, mode: number): PlainFile {
  const fd = openSync(path, flags | constants.O_NONBLOCK, mode);
  const file = { fd, bytes: 0, [Symbol.dispose]: () => closeSync(fd) };
  using undo = new DisposableStack();
  undo.use(file);
  const stats = fstatSync(fd);
  if (!stats.isFile()) throw new TorporError("internal", `${path} is no file`);
  undo.move();
  return { ...file, bytes: stats.size };
}
