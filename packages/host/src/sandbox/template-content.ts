/**
 * Checks that a snapshot or a running VM meets the very template it was made from. Memory and disk
 * are stored as differences from the template: over another build of it, which has the same id,
 * they are garbage.
 */
import { TorporError } from "@torpor/std";
import type { SnapshotManifest } from "@torpor/storage";

const shownChars = 12;

/** The content of a template as it is on disk now. */
export interface TemplateContent {
  readonly templateId: string;
  /** Undefined for a template without checksums. */
  readonly sha256: string | undefined;
}

/**
 * Asserts that the snapshot was saved over this content of its template.
 * @param snapshot A snapshot of an earlier version does not name its content, and passes.
 * @throws template.replaced
 */
export function assertMadeOver(
  { snapshotId, templateSha256 }: SnapshotManifest,
  content: TemplateContent,
): void {
  if (templateSha256 === undefined || templateSha256 === content.sha256) return;
  throw replaced(`the snapshot ${snapshotId} was saved over`, templateSha256, content);
}

/**
 * The content that a save of a running VM is relative to.
 * @param mapped The content that the VM has mapped; undefined for a VM of an earlier version.
 * @throws template.replaced when there is nothing left to compare the VM's memory with
 */
export function contentToSaveOver(
  mapped: string | undefined,
  content: TemplateContent,
): string | undefined {
  if (mapped === undefined || mapped === content.sha256) return content.sha256;
  throw replaced("the VM of this sandbox was started over", mapped, content);
}

function replaced(
  what: string,
  wanted: string,
  { templateId, sha256 }: TemplateContent,
): TorporError {
  const shown = (one: string | undefined): string => one?.slice(0, shownChars) ?? "none";
  return new TorporError(
    "template.replaced",
    `${what} another build of the template ${templateId} than the one that is there now: ` +
      `its content is ${shown(sha256)} and has to be ${shown(wanted)}`,
    { details: { templateId, templateSha256: wanted } },
  );
}
