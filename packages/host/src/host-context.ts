/** What the daemon's parts share; made once in daemon.ts and passed down. */
import type { NetworkKind, Outside } from "@torpor/network";
import type { Failpoint, Logger } from "@torpor/std";
import type { SnapshotStore, TemplateManifest, TemplateStore } from "@torpor/storage";
import type { VmmDriver } from "@torpor/vmm";
import type { Freshness } from "./freshness.ts";
import type { Pagers } from "./pagers.ts";
import type { SandboxRecords } from "./records/sandbox-records.ts";
import type { SnapshotRecords } from "./records/snapshot-records.ts";
import type { TemplateTags } from "./template-tags.ts";
import type { WakeQueue } from "./wake-queue.ts";
import type { WorkingSets } from "./working-sets.ts";

export interface HostContext {
  readonly stateFolder: string;
  readonly templates: TemplateStore;
  /** Reaches VMs that run already, whichever program they run. */
  readonly driver: Pick<VmmDriver, "adopt" | "processesBelow">;
  /** Starts VMs of this template, with the VMM it was made with. */
  readonly driverOf: (template: TemplateManifest) => VmmDriver;
  /** Bring VMs their memory, whose driver takes that. */
  readonly pagers: Pagers;
  readonly networkKind: NetworkKind;
  /** The internet that sandboxes reach. */
  readonly outside: Outside;
  readonly records: SandboxRecords;
  readonly snapshotRecords: SnapshotRecords;
  readonly store: SnapshotStore;
  /** What wakes need of memory before they ask. */
  readonly workingSets: WorkingSets;
  readonly tags: TemplateTags;
  readonly freshness: Freshness;
  /** Taken by every wake that a user waits for. */
  readonly wakeQueue: WakeQueue;
  readonly log: Logger;
  /** How long requests in flight have to end before a pause. */
  readonly drainMs: number;
  /** Save all of a guest by the VMM's own means, should the short way give trouble. */
  readonly saveWhole: boolean;
  /** How many spare sandboxes are kept of each template in use. */
  readonly spareCount: number;
  /** Sees every step of every verb; only fault-injection tests pass one. */
  readonly failpoint?: Failpoint | undefined;
}
