/**
 * Small text files of the guest that the agent keeps right. Whoever is root in the guest may have put
 * anything in their place: nothing here waits for a pipe that nobody reads, or reads without end.
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

/** @throws system error; internal for what is no file, or longer. */
export function readPlainFile(path: string, bytesMax: number): string {
  using file = openPlainFile(path, constants.O_RDONLY, 0);
  if (file.bytes > bytesMax) throw new TorporError("internal", `${path} is too long`);
  return readFileSync(file.fd, "utf8");
}

/**
 * Replaces the whole content in place: whoever has the file open, mapped, watched or laid over
 * another sees the new one. A small text is one write. `mode` is for a file that is not there yet.
 * @throws system error; internal for what is no file.
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
