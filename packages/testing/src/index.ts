export { type ApiAnswer, DaemonApi, type SandboxInfo } from "./daemon-api.ts";
export { type DaemonProcess, type DeathPoint, spawnTestDaemon } from "./daemon-process.ts";
export { type FailingStep, Failpoints } from "./failpoints.ts";
export { GuestProcess, type GuestResult } from "./guest-process.ts";
export { type TestDaemon, type TestDaemonOptions, startTestDaemon } from "./in-process-daemon.ts";
export { StateFolder } from "./state-folder.ts";
export { type RunOptions, TestSandbox } from "./test-sandbox.ts";
export { failsWith, waitUntil } from "./expectations.ts";
export { type Testimony, Witness } from "./witness.ts";
