/**
 * Everything that an operation could leave on the machine besides the files that rows name:
 * processes, mounts, control groups, sockets below the state folder, and descriptors of this
 * process that keep a network namespace, a TAP device or a user id's lock.
 *
 * Before and after an operation, in the same state of the same sandboxes, it must be the same. Only
 * what leads back to the state folder counts, so that other tests may run at the same time; a
 * control group does not lead there, so those without a process count.
 */
import assert from "node:assert/strict";
import { type Dirent, readFileSync, readdirSync, readlinkSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Deadline } from "@torpor/std";
import { inspectCgroups } from "@torpor/vmm";
import type { StateFolder } from "./state-folder.ts";

const pollMs = 20;
/** LIMIT: how long ended things may take to disappear, such as a process to be reaped. */
const settleMs = 10_000;
const keptAlive = /^net:|^mnt:|^\/dev\/net\/tun$|^\/run\/torpor\/users\//;

/** Everything of that kind on the machine at one moment. */
export interface Leftovers {
  /** Names of programs whose command line has a path below the state folder. */
  readonly processes: readonly string[];
  /** Mounts below the state folder, those of namespaces included. */
  readonly mounts: readonly string[];
  readonly emptyCgroups: readonly string[];
  /**
   * Kinds of sockets, without the sandbox and the run: the run before a VM that died may have left
   * one too.
   */
  readonly sockets: readonly string[];
  /** Kinds of descriptors, not numbers. */
  readonly descriptors: readonly string[];
}

/** Lists what is on the machine now. */
export function lookAround({ path }: StateFolder): Leftovers {
  return {
    processes: processesOf(path),
    mounts: linesOf("/proc/self/mountinfo").filter(
      (line) => line.includes(path) || line.includes(" - nsfs "),
    ),
    emptyCgroups: unpopulatedCgroups(),
    sockets: socketsBelow(path),
    descriptors: descriptors(),
  };
}

/** Asserts that nothing differs from before; waits for what is about to disappear. */
export async function assertNothingLeft(state: StateFolder, before: Leftovers): Promise<void> {
  const deadline = Deadline.after(settleMs, "what was ended to be gone");
  for (;;) {
    const now = lookAround(state);
    // Cgroups that disappear have nothing to do with this test: a VM of another test may have
    // ended.
    const emptyCgroups = now.emptyCgroups.filter((one) => !before.emptyCgroups.includes(one));
    const found = { ...now, emptyCgroups };
    const expected = { ...before, emptyCgroups: [] };
    try {
      assert.deepEqual(found, expected, "something is left on the machine");
      return;
    } catch (cause) {
      if (deadline.expired) throw cause;
    }
    await sleep(pollMs);
  }
}

function processesOf(path: string): readonly string[] {
  const found: string[] = [];
  for (const pid of list("/proc").filter((name) => /^\d+$/.test(name))) {
    if (pid === String(process.pid)) continue;
    if (!read(`/proc/${pid}/cmdline`).includes(path)) continue;
    found.push(read(`/proc/${pid}/comm`).trim());
  }
  return found.sort();
}

function unpopulatedCgroups(): readonly string[] {
  const support = inspectCgroups();
  if (support.kind === "unusable") return [];
  const groups = list(support.parent).map((name) => join(support.parent, name));
  return groups.filter((group) => read(join(group, "cgroup.events")).includes("populated 0"));
}

function socketsBelow(path: string): readonly string[] {
  const entries: Dirent[] = readdirSync(path, { withFileTypes: true, recursive: true });
  const sockets = entries.filter((entry) => entry.isSocket());
  const kinds = sockets.map((entry) =>
    join(entry.parentPath, entry.name).replace(/\/[^/]+\/run\/\d+\//, "/ID/run/N/"),
  );
  return [...new Set(kinds)].sort();
}

function descriptors(): readonly string[] {
  const targets = list("/proc/self/fd").map((fd) => {
    try {
      return readlinkSync(`/proc/self/fd/${fd}`);
    } catch {
      return ""; // the descriptor of the listing itself
    }
  });
  const kept = targets.flatMap((target) => keptAlive.exec(target)?.[0] ?? []);
  return kept.sort();
}

function linesOf(path: string): readonly string[] {
  return read(path).split("\n");
}

/** Reads a file; empty if it has disappeared in the meantime. */
function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return "";
  }
}

function list(path: string): readonly string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}
