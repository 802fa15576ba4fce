export type { ConnectionInfo, ConnectionState } from "./connection.ts";
export { StaleGenerationError } from "./errors.ts";
export type { TrackableServer } from "./server-watch.ts";
export {
  type PrepareCounts,
  type RestoreCounts,
  type RestoreOptions,
  ServerConnTracker,
} from "./tracker.ts";
