/**
 * The disk layers of a QEMU program, over QMP: of the emulator, or of the storage daemon that
 * serves a disk to another VMM. Layers are added on top of the disk, and replaced below its top.
 *
 * INVARIANT: the program is queried for its layers each time. Another daemon may have changed them,
 * and an answer may have been lost.
 */
import { Deadline, type JsonObject, TorporError } from "@torpor/std";
import type { DiskLayer, LayerReplacement } from "../driver.ts";
import { BlockGraph } from "./block-graph.ts";
import { fileNodeName, movedNode, overlayNode, sealedNode } from "./command-line.ts";
import type { QmpClient } from "./qmp.ts";

/** For closing a layer whose opening turned out to be of no use. */
const undoBudgetMs = 5_000;

/** Queries the name of the node that the disk's user reads and writes. */
type AskTopNode = (deadline: Deadline) => Promise<string>;

/** Adds and replaces the layers of one disk. */
export class BlockLayers {
  readonly #qmp: QmpClient;
  readonly #askTopNode: AskTopNode;

  constructor(qmp: QmpClient, askTopNode: AskTopNode) {
    this.#qmp = qmp;
    this.#askTopNode = askTopNode;
  }

  /** Opens an empty layer. @param path As the program finds it. */
  async open(path: string, deadline: Deadline): Promise<void> {
    await this.#qmp.execute("blockdev-add", overlayNode(path), deadline);
  }

  /** Makes an opened layer the top of the disk. @returns false if it already is. */
  async add({ path }: DiskLayer, deadline: Deadline): Promise<boolean> {
    const overlay = nodeName(path);
    const node = await this.#askTopNode(deadline);
    if (node === overlay) return false;
    await this.#qmp.execute("blockdev-snapshot", { node, overlay }, deadline);
    return true;
  }

  /** Undoes `open` for a layer that was not added. Safe to repeat. */
  async close({ path }: DiskLayer, deadline: Deadline): Promise<void> {
    const name = nodeName(path);
    const graph = await this.#askGraph(deadline);
    if (!graph.has(name) || (await this.#askTopNode(deadline)) === name) return;
    await this.#delete(name, deadline);
  }

  /**
   * Does what `Vm.replaceDiskLayers` describes.
   * @param show Lets the program read a layer; returns the path by which it finds it.
   */
  async replace(
    { above, below }: LayerReplacement,
    show: (path: string) => string,
    deadline: Deadline,
  ): Promise<void> {
    // Nodes left by an earlier attempt would conflict by their names.
    await this.#closeUnused(deadline);
    const graph = await this.#askGraph(deadline);
    const top = graph.nodeOver(fileNodeName(above.path));
    if (top === undefined) throw new TorporError("vmm.failed", `${above.path} is not open`);
    const [template, ...present] = graph.backingsOf(top).toReversed();
    if (template === undefined) throw new TorporError("vmm.failed", "the disk has one layer only");
    const kept = countKept(graph, present, below);
    if (kept === present.length && kept === below.length) return;
    await using opened = new AsyncDisposableStack();
    let backing = present[kept - 1] ?? template;
    for (const { path } of below.slice(kept)) {
      const node = sealedNode(show(path), backing);
      await this.#qmp.execute("blockdev-add", node, deadline);
      backing = node["node-name"];
      opened.defer(() => this.#deleteUnused(node["node-name"]));
    }
    await this.#move(top, above, backing, deadline);
    opened.move();
    await this.#closeUnused(deadline);
  }

  /**
   * Rebases a node. QEMU lets the guest's requests finish first, and accepts new ones when it is
   * done.
   */
  async #move(
    node: string,
    { path }: DiskLayer,
    backing: string,
    deadline: Deadline,
  ): Promise<void> {
    const isTop = (await this.#askTopNode(deadline)) === node;
    const options = [movedNode(node, fileNodeName(path), backing, isTop)];
    await this.#qmp.execute("blockdev-reopen", { options }, deadline);
  }

  /**
   * Closes layer after layer: of layers on top of each other the newest comes first, and then the
   * next is unused.
   */
  async #closeUnused(deadline: Deadline): Promise<void> {
    for (;;) {
      const { unused } = await this.#askGraph(deadline);
      if (unused.length === 0) return;
      for (const node of unused) await this.#delete(node, deadline);
    }
  }

  async #deleteUnused(node: string): Promise<void> {
    await this.#delete(node, Deadline.after(undoBudgetMs, "closing a disk layer"));
  }

  async #delete(node: string, deadline: Deadline): Promise<void> {
    await this.#qmp.execute("blockdev-del", { "node-name": node }, deadline);
  }

  async #askGraph(deadline: Deadline): Promise<BlockGraph> {
    const nothing: JsonObject = {};
    return new BlockGraph(await this.#qmp.execute("x-debug-query-block-graph", nothing, deadline));
  }
}

/**
 * How many of the oldest layers are already the wanted ones.
 * @param present Nodes, oldest first.
 */
function countKept(
  graph: BlockGraph,
  present: readonly string[],
  wanted: readonly DiskLayer[],
): number {
  const differs = (node: string, index: number): boolean => {
    const layer = wanted[index];
    return layer === undefined || graph.below(node, "file") !== fileNodeName(layer.path);
  };
  const first = present.findIndex(differs);
  return first === -1 ? present.length : first;
}

function nodeName(path: string): string {
  return overlayNode(path)["node-name"];
}
