export { type BootOptions, type BootedGuest, bootGuest } from "./boot-guest.ts";
export { type Check, type DoctorOptions, runDoctor } from "./doctor.ts";
export {
  type Progress,
  type ProgressStream,
  type Report,
  TerminalProgress,
  silentProgress,
} from "./progress.ts";
export { type SetUpOptions, baseImage, setUp } from "./set-up.ts";
