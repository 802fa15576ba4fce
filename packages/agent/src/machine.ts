/**
 * Everything the agent does to the machine and to its own process around a snapshot, behind one
 * interface, so that a test need not set the clock of the machine it runs on.
 */
import { writeFile } from "node:fs/promises";
import {
  type DestroyedConnections,
  type TcpConnectionName,
  destroyTcpConnections,
  setWallClock,
  shrinkGrownHeap,
} from "@torpor/native";
import type { MachineIdentity } from "@torpor/protocol";
import type { Deadline, Logger } from "@torpor/std";
import { renewGenerators } from "./entropy.ts";
import { becomeMachine, renewSshHostKeys } from "./machine-identity.ts";

/** The machine and the process the agent runs in. */
export interface Machine {
  /** Reseeds the kernel's and the process's random generators. @throws system error */
  renewGenerators(hostEntropy: Uint8Array): void;
  /** Wall clock, milliseconds since 1970. */
  wallClockMs(): number;
  /** Sets the wall clock, milliseconds since 1970. @throws system error */
  setWallClock(unixMs: number): void;
  /**
   * Gives the guest its identity.
   * @throws system error when the guest would be taken for another.
   */
  becomeMachine(identity: MachineIdentity, log: Logger): void;
  /**
   * Replaces the SSH host keys, if there are any.
   * @throws system error; TorporError with no new keys made.
   */
  renewSshHostKeys(deadline: Deadline): Promise<void>;
  /** Destroys all TCP connections that leave the guest, except `spared`. @throws system error */
  destroyTcpConnections(
    spared: TcpConnectionName | undefined,
    deadline: Deadline,
  ): DestroyedConnections;
  /** Returns unused heap memory to the kernel, if there is enough to be worth the time. */
  shrinkHeap(): void;
  /** Makes the agent the last victim of the OOM killer. @throws system error */
  protectAgent(): Promise<void>;
}

/** The machine of a real guest. */
export const realMachine: Machine = {
  renewGenerators,
  wallClockMs: () => Date.now(),
  setWallClock,
  becomeMachine,
  renewSshHostKeys,
  destroyTcpConnections,
  shrinkHeap: () => void shrinkGrownHeap(),
  protectAgent: async () => await writeFile("/proc/self/oom_score_adj", "-1000"),
};
