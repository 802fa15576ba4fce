/** What the daemon's parts share; made once in daemon.ts and passed down. */
import type { NetworkKind } from "@torpor/network";
import type { Failpoint, Logger } from "@torpor/std";
import type { TemplateManifest, TemplateStore } from "@torpor/storage";
import type { VmmDriver } from "@torpor/vmm";
import type { SandboxRecords } from "./records/sandbox-records.ts";

export interface HostContext {
  readonly stateFolder: string;
  readonly templates: TemplateStore;
  /** Reaches VMs that run already, whichever program they run. */
  readonly driver: Pick<VmmDriver, "adopt" | "processesBelow">;
  /** Starts VMs of this template, with the VMM it was made with. */
  readonly driverOf: (template: TemplateManifest) => VmmDriver;
  readonly networkKind: NetworkKind;
  readonly records: SandboxRecords;
  readonly log: Logger;
  /** How many spare sandboxes are kept of each template in use. */
  readonly spareCount: number;
  /** Sees every step of every verb; only fault-injection tests pass one. */
  readonly failpoint?: Failpoint | undefined;
}
