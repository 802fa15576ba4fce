/**
 * The cgroup v2 folder that every user process lives in, and its freezer.
 *
 * Children join it themselves, before they run anything of the user's, through a descriptor that the
 * agent opened: permission is checked at opening, so a child that is not root may join too. A child
 * that joins while the folder is frozen stops there and runs on when it is thawed.
 */
import { closeSync, openSync, writeFileSync } from "node:fs";
import { open, readFile, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import type { Deadline } from "@torpor/std";

/** How often the kernel is asked whether everything has stopped, which takes it a millisecond or so. */
const pollMs = 2;

export class UserCgroup {
  readonly #folder: string;

  private constructor(folder: string) {
    this.#folder = folder;
  }

  /** Undefined where the folder is missing or has no freezer. */
  static async open(folder: string): Promise<UserCgroup | undefined> {
    const found = await stat(join(folder, "cgroup.freeze")).catch(() => undefined);
    return found === undefined ? undefined : new UserCgroup(folder);
  }

  /**
   * A descriptor for one child: `echo 0` into it joins. The caller closes it after the spawn.
   * @throws system error
   */
  openJoin(): Disposable & { readonly fd: number } {
    const fd = openSync(join(this.#folder, "cgroup.procs"), "w");
    return { fd, [Symbol.dispose]: () => closeSync(fd) };
  }

  /**
   * Stops every process inside and waits until the kernel says that all have. Safe to repeat.
   * @throws deadline.exceeded with some still running; thaw then.
   */
  async freeze(deadline: Deadline): Promise<void> {
    this.#write("1");
    while (!(await this.#isFrozen())) {
      deadline.check();
      await deadline.sleep(pollMs);
    }
  }

  /** Lets them run on. Returns before they have all started. Safe to repeat. */
  thaw(): void {
    this.#write("0");
  }

  /** Processes inside, those in folders below included. */
  async processCount(): Promise<number> {
    return await countProcesses(this.#folder);
  }

  /** A kernel file, so nothing is waited for; the thread pool would only add to every wake. */
  #write(value: "0" | "1"): void {
    writeFileSync(join(this.#folder, "cgroup.freeze"), value);
  }

  async #isFrozen(): Promise<boolean> {
    // A new handle each time: the kernel file is small and must be read from its start.
    await using events = await open(join(this.#folder, "cgroup.events"));
    return /^frozen 1$/m.test(await events.readFile("utf8"));
  }
}

async function countProcesses(folder: string): Promise<number> {
  const procs = await readFile(join(folder, "cgroup.procs"), "utf8");
  let count = procs.split("\n").length - 1;
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    if (entry.isDirectory()) count += await countProcesses(join(folder, entry.name));
  }
  return count;
}
