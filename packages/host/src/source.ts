/** What a new sandbox is made from: a template, or a snapshot of another sandbox. */
import type { TemplateManifest } from "@torpor/storage";

export interface Source {
  /** Of the snapshot or the template. */
  readonly id: string;
  readonly name: string;
  readonly template: TemplateManifest;
  readonly snapshotId: string | null;
  /** How many spare sandboxes are kept of it. */
  readonly spareCount: number;
}
