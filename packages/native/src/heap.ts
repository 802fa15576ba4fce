/**
 * Shrinks this process before its memory is saved: every page that it gives back is one page less
 * to store.
 *
 * Start Node with `--expose-gc`; without it the collector is reached through a throw-away context,
 * which itself allocates.
 */
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { libc } from "./libc.ts";

type Collect = (options: { type: "major"; execution: "sync"; flavor: "last-resort" }) => void;

const mallocTrim = libc.func("int malloc_trim(size_t pad)") as (pad: number) => number;

/**
 * LIMIT: growth that a pause may store instead; storing it takes about as long as a collection
 * without emulation.
 */
const growthBytesMin = 16 * 1024 * 1024;

/** SNAPSHOT: a function of the engine, the same in every clone. */
let collect: Collect | undefined;
/**
 * SNAPSHOT: resident bytes after the last shrink, which hold for a clone as its memory was when it
 * was saved.
 */
let shrunkBytes = 0;

/**
 * Shrinks the heap if the process has grown by 16 MiB or more since the last time. An idle process
 * has not grown, so saving it need not wait.
 * @returns whether it shrank the heap.
 */
export function shrinkGrownHeap(): boolean {
  if (process.memoryUsage.rss() - shrunkBytes < growthBytesMin) return false;
  shrinkHeap();
  return true;
}

/**
 * Collects all garbage, twice, then returns free memory of the C heap to the kernel. Blocks for
 * some tens of milliseconds, and ten times as long under emulation. Twice, because memory outside
 * the JavaScript heap is released by finalizers that the first collection only queues.
 */
export function shrinkHeap(): void {
  collect ??= findCollect();
  collect({ type: "major", execution: "sync", flavor: "last-resort" });
  collect({ type: "major", execution: "sync", flavor: "last-resort" });
  mallocTrim(0);
  shrunkBytes = process.memoryUsage.rss();
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
