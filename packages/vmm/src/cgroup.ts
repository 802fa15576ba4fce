/**
 * A control group for one VM process, which limits what the process takes from the host (cgroup
 * v2).
 *
 *     <cgroup2>/torpor/<run>/     memory.max, memory.oom.group, pids.max
 *
 * Where the hierarchy is not writable or lacks a controller, as in many containers, VMs run without
 * a group: then only the host's own memory stops one. A group is removed with its VM; groups that a
 * killed daemon left behind are empty, and the next daemon removes them.
 */
import {
  accessSync,
  constants,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmdirSync,
  writeFileSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { systemCode } from "@torpor/std";

const groupName = "torpor";
const neededControllers = ["memory", "pids"];
const cgroup2Magic = "cgroup2";
const attemptsMax = 3;

/** Limits of one group. */
export interface CgroupLimits {
  readonly memoryBytes: number;
  /** Processes and threads. */
  readonly taskCount: number;
}

/** Whether groups can be made on this machine: in which folder, or why not. */
export type CgroupSupport =
  | { readonly kind: "usable"; readonly parent: string }
  | { readonly kind: "unusable"; readonly why: string };

/** Makes the parent of all groups, which stays. Safe to repeat. */
export function openCgroups(): CgroupSupport {
  const support = inspectCgroups();
  if (support.kind === "unusable") return support;
  const { parent } = support;
  try {
    mkdirSync(parent, { recursive: true });
    for (const group of [dirname(parent), parent]) {
      const enable = neededControllers.map((one) => `+${one}`).join(" ");
      writeFileSync(join(group, "cgroup.subtree_control"), enable);
    }
    return support;
  } catch (cause) {
    return unusable(dirname(parent), cause);
  }
}

/**
 * Checks for support without changing anything.
 * @param mounts The text of /proc/self/mountinfo.
 */
export function inspectCgroups(
  mounts = readFileSync("/proc/self/mountinfo", "utf8"),
): CgroupSupport {
  const root = findHierarchy(mounts);
  if (root === undefined) return { kind: "unusable", why: "no cgroup v2 is mounted" };
  try {
    const offered = readFileSync(join(root, "cgroup.controllers"), "utf8").trim().split(" ");
    const missing = neededControllers.filter((one) => !offered.includes(one));
    if (missing.length > 0) {
      return { kind: "unusable", why: `cgroup v2 at ${root} lacks ${missing.join(" and ")}` };
    }
    accessSync(join(root, "cgroup.subtree_control"), constants.W_OK);
    return { kind: "usable", parent: join(root, groupName) };
  } catch (cause) {
    return unusable(root, cause);
  }
}

function unusable(root: string, cause: unknown): CgroupSupport {
  return { kind: "unusable", why: `cgroup v2 at ${root}: ${systemCode(cause) ?? String(cause)}` };
}

/** Puts a process into a group of its own. @throws a system error, with no group left */
export function confineInCgroup(path: string, pid: number, limits: CgroupLimits): void {
  for (let attempt = 1; ; attempt += 1) {
    try {
      mkdirSync(path, { recursive: true });
      writeFileSync(join(path, "memory.max"), String(limits.memoryBytes));
      // Kill all threads or none: half a VM is of no use.
      writeFileSync(join(path, "memory.oom.group"), "1");
      writeFileSync(join(path, "pids.max"), String(limits.taskCount));
      writeFileSync(join(path, "cgroup.procs"), String(pid));
      return;
    } catch (cause) {
      removeCgroup(path);
      // A daemon that is starting removes empty groups, such as one that is just being filled.
      if (systemCode(cause) !== "ENOENT" || attempt === attemptsMax) throw cause;
    }
  }
}

/**
 * Adds a process that belongs to the one for which the group was made, such as its pager.
 * @throws a system error
 */
export function joinCgroup(path: string, pid: number): void {
  writeFileSync(join(path, "cgroup.procs"), String(pid));
}

/** Removes a group. Does nothing if a process lives in it, or if it is gone. */
export function removeCgroup(path: string): void {
  try {
    rmdirSync(path);
  } catch (cause) {
    const code = systemCode(cause);
    if (code !== "ENOENT" && code !== "EBUSY") throw cause;
  }
}

/** Removes the groups of VMs that ended while no daemon ran. */
export function sweepCgroups(parent: string): void {
  for (const entry of readdirSync(parent, { withFileTypes: true })) {
    if (entry.isDirectory()) removeCgroup(join(parent, entry.name));
  }
}

/**
 * Finds where cgroup v2 is mounted. In mountinfo (proc(5)) the fifth field is the mount point, and
 * the type follows the dash.
 */
function findHierarchy(mounts: string): string | undefined {
  for (const line of mounts.split("\n")) {
    const [before = "", after = ""] = line.split(" - ");
    if (after.startsWith(`${cgroup2Magic} `)) return before.split(" ")[4];
  }
  return undefined;
}
