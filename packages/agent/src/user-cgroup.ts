/**
 * The cgroup v2 folder that every user process lives in, and its freezer. Below it each process that is
 * started has a folder of its own with all its descendants, whatever group or session they move to.
 *
 * Children join theirs themselves, before they run anything of the user's, through a descriptor that
 * the agent opened: permission is checked at opening, so a child that is not root may join too. A child
 * that joins while the folder is frozen stops there and runs on when it is thawed.
 *
 * All calls are synchronous: the files are the kernel's, so nothing is waited for, and a pause needs no
 * thread of the pool, whatever hangs there.
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

/** LIMIT: folders with descendants of ended processes that are looked at when another one is made. */
const leftoversLookedAt = 8;
/** How often the kernel is asked whether everything has stopped, which takes it a millisecond or so. */
const pollMs = 2;

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

  /** A folder for one process and its descendants. @throws system error */
  makeFamily(): FamilyCgroup {
    for (const leftover of [...this.#leftovers].slice(0, leftoversLookedAt)) {
      this.#leftovers.delete(leftover);
      this.#remove(leftover);
    }
    const folder = mkdtempSync(join(this.#folder, "process-"));
    return new FamilyCgroup(folder, () => this.#remove(folder));
  }

  /**
   * Stops every process inside and waits until the kernel says that all have. Safe to repeat.
   * @throws deadline.exceeded with some still running; thaw then.
   */
  async freeze(deadline: Deadline): Promise<void> {
    this.#write("1");
    while (!this.#isFrozen()) {
      deadline.check();
      await deadline.sleep(pollMs);
    }
  }

  /** Lets them run on. Returns before they have all started. Safe to repeat. */
  thaw(): void {
    this.#write("0");
  }

  /** Processes inside, those in folders below included. */
  processCount(): number {
    return countProcesses(this.#folder);
  }

  /** One that is not empty is tried again later: those in it go on. */
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

export class FamilyCgroup implements Disposable {
  readonly #folder: string;
  readonly #remove: () => void;

  constructor(folder: string, remove: () => void) {
    this.#folder = folder;
    this.#remove = remove;
  }

  /**
   * A descriptor for one child: `echo 0` into it joins. The caller closes it after the spawn.
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

  /** Gives the folder back, now or when the last descendant has ended. */
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
