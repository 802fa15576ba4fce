/**
 * The block nodes that a QEMU program has for its disks, and which is on top of which.
 *
 * `x-debug-query-block-graph` has the shortest answer: for each node QEMU's other answers spell out
 * all that lies below, which grows with the square of a chain's length. The answer is parsed but
 * not trusted: a node that lies below itself ends the walk.
 */
import { TorporError, parseInteger, parseObject, parseString } from "@torpor/std";

/** Nodes that QEMU names itself; no command can close them. */
const ownNamePrefix = "#";

type EdgeName = "file" | "backing";

/** The graph of one answer. */
export class BlockGraph {
  /** Maps the node above to the one below, by edge. */
  readonly #below = new Map<string, Map<string, string>>();
  readonly #stoodUpon = new Set<string>();

  /** @param answer The command's answer. @throws vmm.failed */
  constructor(answer: unknown) {
    const { nodes, edges } = parseObject(answer, "block graph");
    const names = new Map<number, string>();
    for (const one of listOf(nodes)) {
      const node = parseObject(one, "block node");
      // Devices and exports have nodes below them too, but no name.
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

  /** Whether there is a node of this name. */
  has(node: string): boolean {
    return this.#below.has(node);
  }

  /** The node directly below `node`. */
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

  /** Nodes that nothing is on top of. */
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
