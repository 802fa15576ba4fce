/** What the daemon's parts share; made once in daemon.ts and passed down. */
import type { NetworkKind } from "@torpor/network";
import type { Failpoint, Logger } from "@torpor/std";
import type { TemplateStore } from "@torpor/storage";
import type { VmmDriver } from "@torpor/vmm";
import type { SandboxRecords } from "./records/sandbox-records.ts";

export interface HostContext {
  readonly stateFolder: string;
  readonly templates: TemplateStore;
  readonly driver: VmmDriver;
  readonly networkKind: NetworkKind;
  readonly records: SandboxRecords;
  readonly log: Logger;
  /** How many spare sandboxes are kept of each template in use. */
  readonly spareCount: number;
  /** Sees every step of every verb; only fault-injection tests pass one. */
  readonly failpoint?: Failpoint | undefined;
}
