import assert from "node:assert/strict";
import { test } from "node:test";
import { BlockGraph } from "./block-graph.ts";

type Edge = readonly [parent: number, name: string, child: number];

/** An answer in QEMU's form; number 1 is the device, which has no name. */
function answer(names: readonly string[], edges: readonly Edge[]): unknown {
  const nodes = names.map((name, index) => ({ id: index + 2, type: "block-driver", name }));
  return {
    nodes: [{ id: 1, type: "block-backend", name: "" }, ...nodes],
    edges: edges.map(([parent, name, child]) => ({ parent, name, child, perm: [] })),
  };
}

const chain = answer(
  ["top", "top.file", "older", "#block9", "layer0", "waits", "waits.file"],
  [
    [1, "root", 2],
    [2, "file", 3],
    [2, "backing", 4],
    [4, "file", 5],
    [4, "backing", 6],
    [7, "file", 8],
  ],
);

test("tells what lies below a node, and over a file", () => {
  const graph = new BlockGraph(chain);
  assert.deepEqual(graph.backingsOf("top"), ["older", "layer0"]);
  assert.deepEqual(graph.backingsOf("layer0"), []);
  assert.equal(graph.below("older", "file"), "#block9");
  assert.equal(graph.nodeOver("top.file"), "top");
  assert.equal(graph.nodeOver("older.file"), undefined);
  assert.ok(graph.has("waits") && !graph.has("elsewhere"));
});

test("tells what nothing stands upon, but for what QEMU names itself", () => {
  assert.deepEqual(new BlockGraph(chain).unused, ["waits"]);
  assert.deepEqual(new BlockGraph(answer(["#block1"], [])).unused, []);
});

test("comes to an end with a QEMU that makes circles", () => {
  const edges: readonly Edge[] = [
    [2, "backing", 3],
    [3, "backing", 2],
  ];
  const graph = new BlockGraph(answer(["one", "other"], edges));
  assert.deepEqual(graph.backingsOf("one"), ["other", "one"]);
});

test("refuses unknown words", () => {
  for (const words of [undefined, [], {}, { nodes: [], edges: {} }, { nodes: [{}], edges: [] }]) {
    assert.throws(() => new BlockGraph(words), { name: "TorporError" });
  }
});
