/** Which VMM templates are made with, and so every sandbox of them runs. */
import { type Environment, readSetting } from "@torpor/storage";

export type VmmKind = "qemu" | "firecracker";

/** @throws argument.invalid naming the variable */
export function defaultVmm(env: Environment = process.env): VmmKind {
  return readSetting(env, "TORPOR_VMM") ?? "qemu";
}
