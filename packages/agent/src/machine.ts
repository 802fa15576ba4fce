/**
 * What the agent does to the machine and to its own process around a snapshot, behind one interface,
 * so that a test need not turn the clock of the machine it runs on.
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

export interface Machine {
  /** @throws system error */
  renewGenerators(hostEntropy: Uint8Array): void;
  wallClockMs(): number;
  /** @throws system error */
  setWallClock(unixMs: number): void;
  /** @throws system error when the guest would be taken for another. */
  becomeMachine(identity: MachineIdentity, log: Logger): void;
  /** Does nothing where there are none. @throws system error, TorporError with none made. */
  renewSshHostKeys(deadline: Deadline): Promise<void>;
  /** Destroys all TCP connections to elsewhere but `spared`. @throws system error */
  destroyTcpConnections(
    spared: TcpConnectionName | undefined,
    deadline: Deadline,
  ): DestroyedConnections;
  /** Gives back memory that it needs no more, if there is enough of it to be worth the time. */
  shrinkHeap(): void;
  /** Makes the agent the last victim of the OOM killer. @throws system error */
  protectAgent(): Promise<void>;
}

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
