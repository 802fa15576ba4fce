/** The source of a new sandbox: a template, or a snapshot of another sandbox. */
import type { TemplateManifest } from "@torpor/storage";
import type { HostContext } from "./host-context.ts";
import type { Snapshots } from "./snapshots.ts";

/** A template or a snapshot from which a sandbox is created. */
export interface Source {
  /** Id of the snapshot or the template. */
  readonly id: string;
  readonly name: string;
  /** The template itself, or the one that the snapshot is built on. */
  readonly template: TemplateManifest;
  /** Null for a template. */
  readonly snapshotId: string | null;
  /** How many spare sandboxes are kept ready from it. */
  readonly spareCount: number;
}

/**
 * Finds a source by id or name; a snapshot takes precedence over a template.
 * @throws template.missing
 */
export async function findSource(
  host: Pick<HostContext, "templates" | "tags" | "spareCount">,
  snapshots: Snapshots,
  reference: string,
): Promise<Source> {
  const snapshot = snapshots.find(reference);
  if (snapshot !== undefined) {
    const { manifest } = await host.templates.open(snapshot.templateId);
    const { id, name, pool } = snapshot;
    return { id, name: name ?? id, template: manifest, snapshotId: id, spareCount: pool };
  }
  const { manifest } = await host.templates.open(host.tags.resolve(reference));
  const { templateId, name } = manifest;
  const { spareCount } = host;
  return { id: templateId, name, template: manifest, snapshotId: null, spareCount };
}
