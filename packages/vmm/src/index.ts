export type {
  Accelerator,
  DiskLayer,
  GuestMemory,
  MachineShape,
  MemoryRange,
  NetworkAttachment,
  Vm,
  VmExit,
  VmHandle,
  VmProcess,
  VmSpec,
  VmmDriver,
  VmmIdentity,
} from "./driver.ts";
export { assertLoadable, assertSameMachine } from "./identity.ts";
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
export { type CgroupSupport, inspectCgroups, openCgroups, sweepCgroups } from "./qemu/cgroup.ts";
export type { ConfinementOptions } from "./qemu/confinement.ts";
export { QemuDriver, qemuVersion } from "./qemu/driver.ts";
export { type UserIdRange, defaultUserIds } from "./qemu/user-ids.ts";
export { type QemuProgram, copiedQemu, installedQemu, loaderCommand } from "./qemu/program.ts";
export { QmpClient } from "./qemu/qmp.ts";
export { openRunFile, readTail, runFiles } from "./qemu/run-files.ts";
