/** A ledger in memory, for tests of the store without a database. */
import type { LayerUse, SnapshotLedger } from "./snapshot-ledger.ts";

/** LIMIT: small, so that tests turn pages. */
const pageRows = 2;

/**
 * A `SnapshotLedger` that counts what is read from it, and can let a test act between two pages.
 */
export class MemoryLedger implements SnapshotLedger {
  uses: readonly LayerUse[] = [];
  /** Rows that `usersOf` has returned. */
  rowsRead = 0;
  /** Called once, before `usersOf` next returns. */
  meanwhile: (() => Promise<void>) | undefined;

  async add(added: readonly LayerUse[]): Promise<void> {
    await this.remove(added.map(({ snapshotId }) => snapshotId));
    const key = ({ snapshotId: id, layerId }: LayerUse): string => `${layerId} ${id}`;
    this.uses = [...this.uses, ...added].toSorted((a, b) => (key(a) < key(b) ? -1 : 1));
  }

  snapshotIds(): Promise<readonly string[]> {
    return Promise.resolve([...new Set(this.uses.map(({ snapshotId }) => snapshotId))]);
  }

  layersOf(snapshotIds: readonly string[]): Promise<readonly string[]> {
    const uses = this.uses.filter(({ snapshotId }) => snapshotIds.includes(snapshotId));
    return Promise.resolve(uses.map(({ layerId }) => layerId));
  }

  async usersOf(
    layerIds: readonly string[],
    after: { readonly layerId: string; readonly snapshotId?: string } | undefined,
  ): Promise<readonly LayerUse[]> {
    const rest = this.uses.filter(({ layerId, snapshotId }) => {
      if (!layerIds.includes(layerId)) return false;
      if (after === undefined || layerId > after.layerId) return true;
      return layerId === after.layerId && snapshotId > (after.snapshotId ?? "~");
    });
    const page = rest.slice(0, pageRows);
    this.rowsRead += page.length;
    const { meanwhile } = this;
    this.meanwhile = undefined;
    await meanwhile?.();
    return page;
  }

  remove(snapshotIds: readonly string[]): Promise<void> {
    this.uses = this.uses.filter(({ snapshotId }) => !snapshotIds.includes(snapshotId));
    return Promise.resolve();
  }
}
