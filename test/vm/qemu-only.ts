/** For tests of what only QEMU has or needs, where TORPOR_VMM has sandboxes run under another VMM. */
import { defaultVmm } from "@torpor/setup";

export const underQemu: string | false =
  defaultVmm() === "qemu" ? false : "not run: only QEMU has this";
