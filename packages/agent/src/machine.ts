/**
 * What the agent does to the machine and to its own process around a snapshot, behind one interface,
 * so that a test need not turn the clock of the machine it runs on.
 */
import { writeFile } from "node:fs/promises";
import { setWallClock, shrinkHeap } from "@torpor/native";
import { renewGenerators } from "./entropy.ts";

export interface Machine {
  /** @throws system error */
  renewGenerators(hostEntropy: Uint8Array): void;
  wallClockMs(): number;
  /** @throws system error */
  setWallClock(unixMs: number): void;
  shrinkHeap(): void;
  /** Makes the agent the last victim of the OOM killer. @throws system error */
  protectAgent(): Promise<void>;
}

export const realMachine: Machine = {
  renewGenerators,
  wallClockMs: () => Date.now(),
  setWallClock,
  shrinkHeap,
  protectAgent: async () => await writeFile("/proc/self/oom_score_adj", "-1000"),
};
