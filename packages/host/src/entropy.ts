/**
 * The host's own randomness for guests: identifiers, keys, and the bytes that make each restored
 * guest's generators its own. The host is never restored from a snapshot, so Node's generator is
 * safe here; inside a guest it would not be.
 */
import { randomBytes, randomInt, randomUUID } from "node:crypto";
import { type MachineIdentity, entropyBytes } from "@torpor/protocol";

const idAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789";

/** `i` and 20 characters of a-z and 0-9: fits a DNS label after "<port>-". */
export function newSandboxId(): string {
  return `i${randomId(20)}`;
}

/** 20 characters of a-z and 0-9, as the id of a template: sandboxes are made from either. */
export function newSnapshotId(): string {
  return randomId(20);
}

/** Begins with a letter, as QEMU wants it of the names it is given. */
export function newDiskLayerId(): string {
  return `d${randomId(20)}`;
}

/** What tells the machine of a new sandbox from all others. */
export function newMachineIdentity(sandboxId: string): MachineIdentity {
  return {
    hostname: sandboxId,
    machineId: randomBytes(16).toString("hex"),
    bootId: randomUUID(),
  };
}

function randomId(chars: number): string {
  return Array.from({ length: chars }, () => idAlphabet[randomInt(idAlphabet.length)]).join("");
}

/** 256 bits, hex. */
export function newSecret(): string {
  return randomBytes(32).toString("hex");
}

/** For one init of one guest, base64. */
export function newGuestEntropy(): string {
  return randomBytes(entropyBytes).toString("base64");
}
