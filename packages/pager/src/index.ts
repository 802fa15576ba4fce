export type { PagerEnd } from "./last-words.ts";
export type { PagerOptions } from "./pager-options.ts";
export { PagerProcess } from "./pager-process.ts";
export type { PagerStatus } from "./pager-status.ts";
export { ServedMemory } from "./served-memory.ts";
export type { PageRange, SavedMemoryFiles } from "./page-source.ts";
export { type PrefetchMode, type PrefetchPhase, prefetchModes } from "./prefetch.ts";
export {
  type WorkingSet,
  countPages,
  encodeWorkingSet,
  readWorkingSet,
  workingSetOf,
  writeWorkingSet,
} from "./working-set.ts";
