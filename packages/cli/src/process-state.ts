/** Finds out whether a process of this machine still runs. */
import { readFileSync } from "node:fs";
import { systemCode } from "@torpor/std";

/**
 * Whether the process runs. False for a zombie too: where nothing reaps orphans, as in many
 * containers, a zombie stays for good and `kill(pid, 0)` would always succeed.
 */
export function isRunningProcess(pid: number): boolean {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold anything, so the state is the field after the last one.
    const state = stat.slice(stat.lastIndexOf(")") + 2, stat.lastIndexOf(")") + 3);
    return state !== "Z" && state !== "X";
  } catch (error) {
    if (systemCode(error) === "ENOENT" || systemCode(error) === "ESRCH") return false;
    throw error;
  }
}
