/**
 * The file by which programs in the guest notice that it was restored: `<generation> <token>` in
 * one line, changed by every init while user processes are frozen.
 *
 * It is always the same file, rewritten in place: programs may watch it with inotify, map it, or
 * keep it open and read it again. The token is drawn from the host's entropy, so that it differs
 * between all copies of one memory, whose generations may be equal.
 */
import { createHash } from "node:crypto";
import { mkdirSync } from "node:fs";
import { dirname } from "node:path";
import { overwritePlainFile } from "./plain-file.ts";

const tokenChars = 32;

/** Rewrites the file at `path`, and makes its folder if needed. @throws system error */
export function writeGeneration(path: string, generation: number, hostEntropy: Uint8Array): void {
  // Every user can read the token. Being a hash of its own kind, it reveals nothing else made from
  // the same entropy.
  const hash = createHash("sha256").update("torpor generation\n").update(hostEntropy);
  const token = hash.digest("hex").slice(0, tokenChars);
  mkdirSync(dirname(path), { recursive: true, mode: 0o755 });
  overwritePlainFile(path, `${generation} ${token}\n`, 0o644);
}
