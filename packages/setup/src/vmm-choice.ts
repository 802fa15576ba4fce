/** Which VMM templates are made with, and so every sandbox of them runs. */
import { parseOneOf } from "@torpor/std";

export type VmmKind = "qemu" | "firecracker";

/** @throws argument.invalid naming the variable */
export function defaultVmm(env: NodeJS.ProcessEnv = process.env): VmmKind {
  return parseOneOf(env["TORPOR_VMM"] ?? "qemu", "TORPOR_VMM", ["qemu", "firecracker"]);
}
