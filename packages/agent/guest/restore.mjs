/**
 * Lets a Node program in a sandbox notice that it was restored from a snapshot, and repairs what can
 * be repaired in its process. Import it, or load it before a program that knows nothing of it:
 *
 *     import { checkRestored, onRestore } from "/usr/lib/torpor/restore.mjs";
 *     onRestore(({ generation, token }) => server.setTicketKeys(randomBytes(48)));
 *
 *     node --import /usr/lib/torpor/restore.mjs program.mjs
 *
 * A snapshot copies a process with its random generators, so that copies of it draw the same numbers:
 * the same keys, the same UUIDs. Nothing in a process can feel that. The sandbox therefore changes a
 * file with every restore, before any process runs on, and this module watches it. At a change it
 * makes `node:crypto` draw from a fresh seed, throws away the UUIDs and integers that Node had drawn
 * ahead, and calls back. Outside a sandbox there is no such file, and nothing ever happens.
 *
 * What cannot be repaired:
 *   - `Math.random()` goes on as in every other copy. Use `node:crypto` for what has to be unique.
 *   - Numbers that are drawn between the restore and the next turn of the event loop come from the old
 *     seed. Whoever cannot have that calls `checkRestored()` right before drawing, some microseconds.
 *   - What the program made of random numbers before: keys, session ids, node ids, TLS ticket keys. Make
 *     them anew in a callback.
 *   - UUIDs and integers that a worker thread had drawn ahead, unless it imports this module too, as
 *     with `--import`.
 */
import { randomInt, randomUUID } from "node:crypto";
import { openSync, readSync, watch } from "node:fs";
import koffi from "koffi";

/**
 * @typedef {object} Restore
 * @property {number} generation Grows with every restore of this sandbox.
 * @property {string} token 32 hex digits; differs between all copies of one snapshot.
 */

const path = process.env["TORPOR_GENERATION_FILE"] ?? "/run/torpor/generation";
/** The file holds one line; a longer one is not of ours. */
const lineBytesMax = 128;
/** How many Node draws ahead. */
const uuidCacheEntries = 128;
const intCacheEntries = 1024;

/** Of the OpenSSL in this Node; its generators in other threads follow it. */
const randPoll = /** @type {() => number} */ (koffi.load(null).func("int RAND_poll()"));

/** @type {Set<(restore: Restore) => unknown>} */
const callbacks = new Set();
const fd = watchFile();
let seenLine = readLine();

/**
 * Calls `callback` after each restore from now on, when the generators of this process are renewed.
 * Watching does not keep the process alive. An error that it throws ends the program as any other.
 * @param {(restore: Restore) => unknown} callback
 * @returns {() => void} Calls it no more.
 */
export function onRestore(callback) {
  callbacks.add(callback);
  return () => callbacks.delete(callback);
}

/**
 * Looks at once whether there was a restore that has not been noticed yet. If so, all that is done at
 * a restore is done before this returns.
 * @returns {Restore | undefined}
 */
export function checkRestored() {
  const line = readLine();
  if (line === seenLine) return undefined;
  const [, generation, token] = /^(\d+) ([0-9a-f]{32})\n$/.exec(line) ?? [];
  if (generation === undefined || token === undefined) return undefined;
  seenLine = line;
  renewGenerators();
  const restore = { generation: Number(generation), token };
  callBack(restore);
  return restore;
}

/** ORDER: the seed first, because what is thrown away is replaced by what is drawn from it. */
function renewGenerators() {
  if (randPoll() !== 1) throw new Error("OpenSSL has got no new seed");
  for (let drawn = 0; drawn < uuidCacheEntries; drawn += 1) randomUUID();
  for (let drawn = 0; drawn < intCacheEntries; drawn += 1) randomInt(2);
}

/**
 * One that throws does not keep the others from being called.
 * @param {Restore} restore
 */
function callBack(restore) {
  /** @type {unknown[]} */
  const failures = [];
  for (const callback of callbacks) {
    try {
      void callback(restore);
    } catch (failure) {
      failures.push(failure);
    }
  }
  if (failures.length === 1) throw failures[0];
  if (failures.length > 1) throw new AggregateError(failures, "callbacks of a restore failed");
}

/** The file stays the same one and is rewritten in place. */
function watchFile() {
  try {
    const opened = openSync(path, "r");
    // ORDER: watched before it is read for the first time, so that no change falls in between.
    watch(path, { persistent: false }, () => checkRestored());
    return opened;
  } catch (failure) {
    if (failure instanceof Error && "code" in failure && failure.code === "ENOENT")
      return undefined;
    throw failure;
  }
}

function readLine() {
  if (fd === undefined) return "";
  const bytes = Buffer.alloc(lineBytesMax);
  return bytes.toString("latin1", 0, readSync(fd, bytes, 0, lineBytesMax, 0));
}
