export { type ApiAnswer, DaemonApi, type SandboxInfo } from "./daemon-api.ts";
export {
  type DaemonProcess,
  type DeathPoint,
  spawnFakeVmDaemon,
  spawnSupervisedDaemon,
  spawnTestDaemon,
} from "./daemon-process.ts";
export { type Asked, FakeInternet } from "./fake-internet.ts";
export { type FailingStep, Failpoints } from "./failpoints.ts";
export { FakeDisk } from "./fake-vmm/fake-disk.ts";
export { FakeDriver, type Gate } from "./fake-vmm/fake-driver.ts";
export { FakeMachine } from "./fake-vmm/fake-machine.ts";
export { FakeMemory } from "./fake-vmm/fake-memory.ts";
export { PagedMachine } from "./fake-vmm/paged-machine.ts";
export type { FakeProcess } from "./fake-vmm/fake-process.ts";
export { imageCluster, imagePage, makeFakeTemplate } from "./fake-vmm/fake-template.ts";
export {
  type Operation,
  contractRelease,
  faultIn,
  findOperation,
  operations,
} from "./fake-firecracker/contract.ts";
export { installFakeFirecracker } from "./fake-firecracker/install.ts";
export {
  type PagedRig,
  fakeFirecrackerSkip,
  makeFakeFirecrackerRig,
  makePagedFirecrackerRig,
} from "./fake-firecracker/rig.ts";
export { GuestProcess, type GuestResult } from "./guest-process.ts";
export { Ledger } from "./ledger.ts";
export { type TestDaemon, type TestDaemonOptions, startTestDaemon } from "./in-process-daemon.ts";
export { type GuestSpec, PagedGuest } from "./paged-guest/paged-guest.ts";
export {
  SavedFixture,
  shareOf,
  shuffled,
  soon,
  startGuest,
  startPager,
} from "./paged-guest/saved-fixture.ts";
export type { GuestTask, TaskResult } from "./paged-guest/task.ts";
export { type Leftovers, assertNothingLeft, lookAround } from "./leftovers.ts";
export { StateFolder } from "./state-folder.ts";
export { type RunOptions, TestSandbox } from "./test-sandbox.ts";
export { assertRightClock, stillMs } from "./wall-clock.ts";
export { failsWith, waitUntil } from "./expectations.ts";
export {
  type ConformanceRig,
  type ConformanceRun,
  type Remembered,
  testConformance,
} from "./vmm-conformance.ts";
export { type Testimony, Witness } from "./witness.ts";
