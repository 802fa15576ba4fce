/**
 * The keys of this host that seal secrets at rest: a file outside the state folder, so that a copy
 * of that folder reveals no secret. Each line is one key; the first seals, all open.
 *
 * A missing file is made when a secret is to be sealed, never when one is to be opened.
 */
import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, linkSync, mkdirSync, openSync, rmSync, writeSync } from "node:fs";
import { dirname } from "node:path";
import { type Logger, TorporError, systemCode } from "@torpor/std";
import { readOwnFile, refuseOpenWay } from "./owner-only.ts";
import { type SealingKey, type SealingKeys, sealingKeyBytes, sealingKeyOf } from "./sealing.ts";

const linePrefix = "torpor-sealing-key-1:";
/** LIMIT: far more keys than anybody replaces. */
const fileBytesMax = 65_536;

/** The sealing keys in a file that is its owner's alone. */
export class KeyFile implements SealingKeys {
  readonly place: string;
  readonly #log: Logger;
  #keys: readonly SealingKey[];

  private constructor(path: string, log: Logger, keys: readonly SealingKey[]) {
    this.place = path;
    this.#log = log;
    this.#keys = keys;
  }

  /** @throws storage.exposed when it is not the owner's alone; secrets.damaged; storage.failed */
  static open(path: string, log: Logger): KeyFile {
    return new KeyFile(path, log, readKeys(path, log));
  }

  current(): SealingKey {
    const [first] = this.#keys.length > 0 ? this.#keys : this.#make();
    if (first === undefined) throw damaged(this.place);
    return first;
  }

  find(keyId: string): SealingKey | undefined {
    return this.#keys.find(({ id }) => id === keyId);
  }

  #make(): readonly SealingKey[] {
    const path = this.place;
    try {
      makeKeyFile(path);
    } catch (cause) {
      throw TorporError.from(cause, "storage.failed", `the key file ${path} cannot be made`);
    }
    this.#keys = readKeys(path, this.#log);
    this.#log.info(
      "made the key that seals secrets; keep a copy of it apart from the state folder",
      {
        keyFile: path,
      },
    );
    return this.#keys;
  }
}

/**
 * Makes a key file with one key; if another daemon made one at the same moment, that one is kept.
 */
function makeKeyFile(path: string): void {
  const folder = dirname(path);
  mkdirSync(folder, { recursive: true, mode: 0o700 });
  const staged = `${path}.${process.pid}.new`;
  using undo = new DisposableStack();
  const fd = undo.adopt(openSync(staged, "wx", 0o600), closeSync);
  undo.defer(() => rmSync(staged, { force: true }));
  writeSync(fd, `${linePrefix}${randomBytes(sealingKeyBytes).toString("base64url")}\n`);
  fsyncSync(fd);
  try {
    linkSync(staged, path);
  } catch (cause) {
    if (systemCode(cause) !== "EEXIST") throw cause;
  }
  fsyncSync(undo.adopt(openSync(folder, "r"), closeSync));
}

/** Reads and checks the keys. @returns none when there is no file. */
function readKeys(path: string, log: Logger): readonly SealingKey[] {
  refuseOpenWay(path);
  const text = readOwnFile(path, fileBytesMax, log);
  if (text === undefined) return [];
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  if (lines.length === 0) throw damaged(path);
  return lines.map((line) => {
    const bytes = Buffer.from(line.slice(linePrefix.length).trim(), "base64url");
    if (!line.startsWith(linePrefix) || bytes.length !== sealingKeyBytes) throw damaged(path);
    return sealingKeyOf(bytes);
  });
}

function damaged(path: string): TorporError {
  return new TorporError("secrets.damaged", `${path} is no file of sealing keys`, {
    advice: `Put ${path} back from its backup. Without it the sandboxes that were made with it are lost.`,
  });
}
