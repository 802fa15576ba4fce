/** The group with which a VM's process may open the host's KVM device. */
import { TorporError } from "@torpor/std";

const othersMay = 0o006;
const groupMay = 0o060;

/**
 * SAFETY: never root's group, which may read what others may not; a device that is for root alone is
 * refused instead.
 * @param device As stat(2) has it. @param ownGroupId Of the process, which is nobody else's.
 * @throws vmm.failed
 */
export function kvmGroup(
  device: { readonly gid: number; readonly mode: number },
  ownGroupId: number,
): number {
  if ((device.mode & othersMay) === othersMay) return ownGroupId;
  if (device.gid !== 0 && (device.mode & groupMay) === groupMay) return device.gid;
  throw new TorporError(
    "vmm.failed",
    "/dev/kvm can be opened by root alone, and VMs are not root",
    {
      effect: "none",
      advice: "Give it to a group: groupadd --system kvm; chgrp kvm /dev/kvm; chmod 660 /dev/kvm",
    },
  );
}
