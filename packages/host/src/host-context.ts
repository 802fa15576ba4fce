/** The context that the parts of the daemon share; daemon.ts makes it once and passes it down. */
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

/** The daemon's stores, drivers and settings. */
export interface HostContext {
  readonly stateFolder: string;
  readonly templates: TemplateStore;
  /** Reaches VMs that already run, whichever VMM they run in. */
  readonly driver: Pick<VmmDriver, "adopt" | "processesBelow">;
  /** The driver that starts VMs of this template, with the VMM that it was made with. */
  readonly driverOf: (template: TemplateManifest) => VmmDriver;
  /** Serve memory to the VMs whose driver supports a pager. */
  readonly pagers: Pagers;
  readonly networkKind: NetworkKind;
  /** The internet that sandboxes reach. */
  readonly outside: Outside;
  readonly records: SandboxRecords;
  readonly snapshotRecords: SnapshotRecords;
  readonly store: SnapshotStore;
  /** Which memory a wake needs, before the guest asks for it. */
  readonly workingSets: WorkingSets;
  readonly tags: TemplateTags;
  readonly freshness: Freshness;
  /** Admits every wake that a user waits for. */
  readonly wakeQueue: WakeQueue;
  readonly log: Logger;
  /** How long requests in flight have to finish before a pause. */
  readonly drainMs: number;
  /** Save everything by the VMM's own means, in case saving only the differences gives trouble. */
  readonly saveWhole: boolean;
  /** How many spare sandboxes are kept per template in use. */
  readonly spareCount: number;
  /** Called for every step of every verb; only fault-injection tests pass one. */
  readonly failpoint?: Failpoint | undefined;
}
