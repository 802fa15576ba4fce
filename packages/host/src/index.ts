export { type Daemon, type DaemonOptions, startDaemon } from "./daemon.ts";
export { type Decision, type Verb, decide } from "./lifecycle/decide.ts";
export { type SandboxState, type StateKind, enter, moves } from "./lifecycle/state.ts";
export { readDetail } from "./detail.ts";
export type { Outcome, Sandbox } from "./sandbox.ts";
export { cutLongConsoles } from "./console-limit.ts";
