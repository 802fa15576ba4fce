/**
 * Layers put above the disk of a program of QEMU's, over QMP: of the emulator, and of the storage daemon
 * that serves a disk to another VMM.
 */
import { type Deadline, parseObject } from "@torpor/std";
import type { DiskLayer } from "../driver.ts";
import { overlayNode } from "./command-line.ts";
import type { QmpClient } from "./qmp.ts";

/** The node that the disk's user reads and writes. Asked for each time: another daemon may have added layers. */
type AskTopNode = (deadline: Deadline) => Promise<string>;

export class BlockLayers {
  readonly #qmp: QmpClient;
  readonly #askTopNode: AskTopNode;

  constructor(qmp: QmpClient, askTopNode: AskTopNode) {
    this.#qmp = qmp;
    this.#askTopNode = askTopNode;
  }

  /** Makes an empty layer known. @param path As the program finds it. */
  async open(path: string, deadline: Deadline): Promise<void> {
    await this.#qmp.execute("blockdev-add", overlayNode(path), deadline);
  }

  /** @returns false when the layer is there already. */
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
    const known = await this.#qmp.execute("query-named-block-nodes", { flat: true }, deadline);
    const nodes = (Array.isArray(known) ? (known as unknown[]) : []).map(
      (node) => parseObject(node, "node")["node-name"],
    );
    if (!nodes.includes(name) || (await this.#askTopNode(deadline)) === name) return;
    await this.#qmp.execute("blockdev-del", { "node-name": name }, deadline);
  }
}

function nodeName(path: string): string {
  return overlayNode(path)["node-name"];
}
