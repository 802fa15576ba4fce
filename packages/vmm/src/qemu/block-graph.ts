/**
 * Which nodes a program of QEMU's has of its disks, and which stands upon which.
 *
 * `x-debug-query-block-graph` tells it in the fewest words: QEMU's other answers spell out for each node
 * all that lies below, which grows with the square of a chain's length. What it says is parsed and not
 * believed: a node that stands upon itself ends the walk.
 */
import { TorporError, parseInteger, parseObject, parseString } from "@torpor/std";

/** Nodes that QEMU names itself; nobody can ask for them to be closed. */
const ownNamePrefix = "#";

type EdgeName = "file" | "backing";

export class BlockGraph {
  /** From the node above to the one below. */
  readonly #below = new Map<string, Map<string, string>>();
  readonly #stoodUpon = new Set<string>();

  /** @param answer Of the command. @throws vmm.failed */
  constructor(answer: unknown) {
    const { nodes, edges } = parseObject(answer, "block graph");
    const names = new Map<number, string>();
    for (const one of listOf(nodes)) {
      const node = parseObject(one, "block node");
      // Devices and exports stand upon nodes too, and have no name.
      const isNode = node["type"] === "block-driver";
      const name = isNode ? parseString(node["name"], "name") : "";
      names.set(parseInteger(node["id"], "id", 0, Number.MAX_SAFE_INTEGER), name);
      if (isNode) this.#below.set(name, new Map());
    }
    for (const one of listOf(edges)) {
      const { parent, child, name } = parseObject(one, "block edge");
      const below = names.get(child as number) ?? "";
      this.#stoodUpon.add(below);
      this.#below.get(names.get(parent as number) ?? "")?.set(parseString(name, "name"), below);
    }
  }

  has(node: string): boolean {
    return this.#below.has(node);
  }

  /** What lies directly below a node. */
  below(node: string, edge: EdgeName): string | undefined {
    return this.#below.get(node)?.get(edge);
  }

  /** All layers below a node, newest first. */
  backingsOf(node: string): readonly string[] {
    const seen = new Set<string>();
    let next = this.below(node, "backing");
    while (next !== undefined && !seen.has(next)) {
      seen.add(next);
      next = this.below(next, "backing");
    }
    return [...seen];
  }

  /** The node above this file. */
  nodeOver(file: string): string | undefined {
    return [...this.#below.keys()].find((node) => this.below(node, "file") === file);
  }

  /** Nodes upon which nothing stands. */
  get unused(): readonly string[] {
    return [...this.#below.keys()].filter(
      (node) => !this.#stoodUpon.has(node) && !node.startsWith(ownNamePrefix),
    );
  }
}

function listOf(value: unknown): readonly unknown[] {
  if (Array.isArray(value)) return value as unknown[];
  throw new TorporError("vmm.failed", "QEMU tells of its disks in unknown words");
}
