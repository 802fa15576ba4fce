/** Chooses the VMM that makes new templates, and so runs all their sandboxes. */
import { type Environment, readSetting } from "@torpor/storage";

/** The VMMs that Torpor drives. */
export type VmmKind = "qemu" | "firecracker";

/** The value of TORPOR_VMM, or QEMU. @throws argument.invalid naming the variable */
export function defaultVmm(env: Environment = process.env): VmmKind {
  return readSetting(env, "TORPOR_VMM") ?? "qemu";
}
