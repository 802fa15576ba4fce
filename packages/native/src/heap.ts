/**
 * Shrinks this process before its memory is saved: every page it gives back is a page less to store.
 *
 * Start Node with `--expose-gc`; without it the collector is reached through a throw-away context,
 * which itself allocates.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { libc } from "./libc.ts";

type Collect = (options: { type: "major"; execution: "sync"; flavor: "last-resort" }) => void;

const mallocTrim = libc.func("int malloc_trim(size_t pad)") as (pad: number) => number;

/** SNAPSHOT: a function of the engine, the same in every clone. */
let collect: Collect | undefined;

/**
 * Collects all garbage, twice, then returns free memory of the C heap to the kernel. Blocks for some
 * tens of milliseconds. Twice, because memory outside the JavaScript heap is released by finalizers
 * that the first collection only queues.
 */
export function shrinkHeap(): void {
  collect ??= findCollect();
  collect({ type: "major", execution: "sync", flavor: "last-resort" });
  collect({ type: "major", execution: "sync", flavor: "last-resort" });
  mallocTrim(0);
}

function findCollect(): Collect {
  const { gc } = globalThis;
  if (gc !== undefined) {
    return (options) => {
      gc(options);
    };
  }
  setFlagsFromString("--expose-gc");
  return runInNewContext("gc") as Collect;
}
