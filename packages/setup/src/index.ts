export {
  type BaseImage,
  type BaseImageOptions,
  findBaseImage,
  prepareBaseImage,
} from "./base-image.ts";
export {
  type EnsurePackagesOptions,
  type HostPackage,
  ensureDebianPackages,
  hostPackages,
  removeBackportsSource,
} from "./debian-packages.ts";
export {
  type AcceleratorVerdict,
  type Check,
  type DoctorFacts,
  type DoctorOptions,
  gatherFacts,
  judge,
  loadQemuVersion,
  runDoctor,
} from "./doctor.ts";
export { agentNodeFlags, guestHostName, guestLibDir } from "./guest-files.ts";
export {
  type Progress,
  type ProgressStream,
  type Report,
  TerminalProgress,
  formatMs,
  silentProgress,
} from "./progress.ts";
export { guestRelease, guestUserId, guestUserName } from "./rootfs.ts";
export { type SetUpOptions, baseImage, setUp } from "./set-up.ts";
export { type BootOptions, type BootedGuest, bootGuest } from "./boot-guest.ts";
