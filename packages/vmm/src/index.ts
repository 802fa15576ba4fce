export type {
  Accelerator,
  DiskLayer,
  GuestMemory,
  LayerReplacement,
  MachineShape,
  MemoryContent,
  NetworkAttachment,
  Vm,
  VmExit,
  VmHandle,
  VmProcess,
  VmSpec,
  VmmDriver,
  VmmIdentity,
} from "./driver.ts";
export { type CgroupSupport, inspectCgroups, openCgroups, sweepCgroups } from "./cgroup.ts";
export { assertLoadable, assertSameMachine } from "./identity.ts";
export { FirecrackerDriver, type FirecrackerOptions } from "./firecracker/driver.ts";
export {
  type AdoptPager,
  type PagedMemory,
  type Pager,
  type PagerPlace,
  type StartPager,
  pagerProcessName,
} from "./firecracker/pager.ts";
export { type FirecrackerProgram, installedFirecracker } from "./firecracker/program.ts";
export {
  type ApiRequest,
  type LoadOptions,
  bootRequests,
  limitRequests,
  loadRequest,
  runStateRequest,
  saveRequest,
  stateRequest,
  usualRateLimits,
  versionRequest,
} from "./firecracker/requests.ts";
export { formatRelease, isBefore, parseRelease } from "./firecracker/version.ts";
export { type ProcessName, endProcess, isSameProcess, nameProcess } from "./process.ts";
export { commandLine } from "./qemu/command-line.ts";
export {
  type CopiedFile,
  type CopyDescription,
  copyKey,
  copyParts,
  describeFile,
  readDescription,
  writeDescription,
} from "./qemu/copy-files.ts";
export type { ConfinementOptions } from "./qemu/confinement.ts";
export { QemuDriver, qemuVersion } from "./qemu/driver.ts";
export { type UserIdRange, defaultUserIds } from "./user-ids.ts";
export { type QemuProgram, copiedQemu, installedQemu, loaderCommand } from "./qemu/program.ts";
export { QmpClient } from "./qemu/qmp.ts";
export { openRunFile, readTail, runFiles } from "./run-files.ts";
