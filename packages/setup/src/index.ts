export { type AcceleratorVerdict, knownAccelerator } from "./accelerator.ts";
export { guestSourceLines, loadDebianArchives } from "./apt.ts";
export {
  type BootOptions,
  type BootedGuest,
  bootGuest,
  firstInit,
  kernelArgumentsOf,
  machineOf,
} from "./boot-guest.ts";
export {
  type HostPackage,
  backportsPath,
  ensureDebianPackages,
  hostPackages,
} from "./debian-packages.ts";
export { buildDiskImage } from "./disk-image.ts";
export { type Check, type DoctorOptions, runDoctor } from "./doctor.ts";
export { type CpioEntry, buildInitramfs, guestInitPath, writeNewc } from "./initramfs.ts";
export { type GuestKernel, buildKernelLayer, kernelModules, loadKernelLayer } from "./kernel.ts";
export { ensureLayer, layerKey, withCacheLock } from "./layers.ts";
export {
  type Progress,
  type ProgressStream,
  type Report,
  TerminalProgress,
  silentProgress,
} from "./progress.ts";
export { type DebianTree, guestRelease, makeDebianTree } from "./rootfs.ts";
export { shareCache } from "./shared-cache.ts";
export { type SetUpOptions, baseImage, setUp } from "./set-up.ts";
export {
  type GuestCommand,
  type TemplateOptions,
  prepareTemplate,
  settleGuest,
} from "./template.ts";
export { extractVmlinux } from "./vmlinux.ts";
export { type VmmKind, defaultVmm } from "./vmm-choice.ts";
export { type VmmCopy, ensureVmmCopy } from "./vmm-copy.ts";
