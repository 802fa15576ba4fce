/**
 * A small text file of the guest that is parsed again when it has changed.
 *
 * Read synchronously: such files are small and local. What is no plain file, too long or not there
 * counts as empty, since whoever is root in the guest may put anything in its place.
 */
import { statSync } from "node:fs";
import { readPlainFile } from "./plain-file.ts";

export class ParsedFile<Row> {
  readonly #path: string;
  readonly #bytesMax: number;
  readonly #parse: (line: string) => Row | undefined;
  /** SNAPSHOT: a copy of a file of the same guest; `#stamp` notices when it no longer is. */
  #rows: readonly Row[] = [];
  #stamp = "";

  /** @param parse Gets each line; undefined leaves it out. */
  constructor(path: string, bytesMax: number, parse: (line: string) => Row | undefined) {
    this.#path = path;
    this.#bytesMax = bytesMax;
    this.#parse = parse;
  }

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
