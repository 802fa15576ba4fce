/**
 * A small text file of the guest that is parsed again when it has changed.
 *
 * Read synchronously: such files are small and local. A file that is missing, too long or not
 * regular counts as empty, because root in the guest may put anything in its place.
 */
import { statSync } from "node:fs";
import { readPlainFile } from "./plain-file.ts";

/** The rows of one file, up to date at each call. */
export class ParsedFile<Row> {
  readonly #path: string;
  readonly #bytesMax: number;
  readonly #parse: (line: string) => Row | undefined;
  /** SNAPSHOT: a copy of a file of the same guest; `#stamp` detects when it is out of date. */
  #rows: readonly Row[] = [];
  #stamp = "";

  /** @param parse Parses one line; undefined leaves the line out. */
  constructor(path: string, bytesMax: number, parse: (line: string) => Row | undefined) {
    this.#path = path;
    this.#bytesMax = bytesMax;
    this.#parse = parse;
  }

  /** The rows of the file as it is now. */
  rows(): readonly Row[] {
    const stamp = stampOf(this.#path);
    if (stamp !== this.#stamp) {
      this.#rows = linesOf(this.#path, this.#bytesMax)
        .map(this.#parse)
        .filter((row) => row !== undefined);
      this.#stamp = stamp;
    }
    return this.#rows;
  }
}

function stampOf(path: string): string {
  try {
    const { ino, mtimeMs, size } = statSync(path);
    return `${ino} ${mtimeMs} ${size}`;
  } catch {
    return "";
  }
}

function linesOf(path: string, bytesMax: number): readonly string[] {
  try {
    return readPlainFile(path, bytesMax).split("\n");
  } catch {
    return [];
  }
}
