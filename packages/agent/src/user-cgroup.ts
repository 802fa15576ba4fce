/**
 * The cgroup v2 folder that every user process lives in, and its freezer. Each process that the
 * agent starts has a folder of its own below it, with all its descendants, whatever group or
 * session they move to.
 *
 * Children join their folder themselves, before they run any user code, through a descriptor that
 * the agent opened: the kernel checks permission when it is opened, so a child that is not root may
 * join too. A child that joins while the folder is frozen stops there and continues when it is
 * thawed.
 *
 * All calls are synchronous: the files are the kernel's, so nothing is waited for, and a pause
 * needs no thread of the pool, whatever hangs there.
 */
import {
  closeSync,
  existsSync,
  mkdtempSync,
  openSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { type Deadline, systemCode } from "@torpor/std";

/** LIMIT: leftover folders of ended processes that are retried when another folder is created. */
const leftoversLookedAt = 8;
/**
 * How often the kernel is asked whether every process has stopped, which takes it about a
 * millisecond.
 */
const pollMs = 2;

/** The cgroup of all user processes. */
export class UserCgroup {
  readonly #folder: string;
  /** SNAPSHOT: folders of ended processes whose descendants lived on, in the same guest. */
  readonly #leftovers = new Set<string>();

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Undefined where the folder is missing or has no freezer. */
  static open(folder: string): UserCgroup | undefined {
    return existsSync(join(folder, "cgroup.freeze")) ? new UserCgroup(folder) : undefined;
  }

  /** Creates the folder of one process and its descendants. @throws system error */
  makeFamily(): FamilyCgroup {
    for (const leftover of [...this.#leftovers].slice(0, leftoversLookedAt)) {
      this.#leftovers.delete(leftover);
      this.#remove(leftover);
    }
    const folder = mkdtempSync(join(this.#folder, "process-"));
    return new FamilyCgroup(folder, () => this.#remove(folder));
  }

  /**
   * Stops every process inside and waits until the kernel reports that all have stopped. Safe to
   * repeat.
   * @throws deadline.exceeded with some still running; the caller thaws then.
   */
  async freeze(deadline: Deadline): Promise<void> {
    this.#write("1");
    while (!this.#isFrozen()) {
      deadline.check();
      await deadline.sleep(pollMs);
    }
  }

  /** Lets the processes continue. Returns before all have started. Safe to repeat. */
  thaw(): void {
    this.#write("0");
  }

  /** Number of processes inside, including those in folders below. */
  processCount(): number {
    return countProcesses(this.#folder);
  }

  /** A folder that is not empty is retried later: its processes continue. */
  #remove(folder: string): void {
    try {
      rmdirSync(folder);
    } catch (cause) {
      if (systemCode(cause) !== "ENOENT") this.#leftovers.add(folder);
    }
  }

  #write(value: "0" | "1"): void {
    writeFileSync(join(this.#folder, "cgroup.freeze"), value);
  }

  #isFrozen(): boolean {
    return /^frozen 1$/m.test(readFileSync(join(this.#folder, "cgroup.events"), "utf8"));
  }
}

/** The cgroup of one process and its descendants. */
export class FamilyCgroup implements Disposable {
  readonly #folder: string;
  readonly #remove: () => void;

  constructor(folder: string, remove: () => void) {
    this.#folder = folder;
    this.#remove = remove;
  }

  /**
   * Opens a descriptor for one child, which joins by `echo 0` into it. The caller closes it after
   * the spawn.
   * @throws system error
   */
  openJoin(): Disposable & { readonly fd: number } {
    const fd = openSync(join(this.#folder, "cgroup.procs"), "w");
    return { fd, [Symbol.dispose]: () => closeSync(fd) };
  }

  /** Kills every process inside at once, frozen ones too. @throws system error */
  kill(): void {
    writeFileSync(join(this.#folder, "cgroup.kill"), "1");
  }

  /** Removes the folder, now or when the last descendant has ended. */
  [Symbol.dispose](): void {
    this.#remove();
  }
}

function countProcesses(folder: string): number {
  const procs = readFileSync(join(folder, "cgroup.procs"), "utf8");
  let count = procs.split("\n").length - 1;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) count += countProcesses(join(folder, entry.name));
  }
  return count;
}
