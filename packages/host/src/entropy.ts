/**
 * The host's own randomness for guests: identifiers, keys, and the bytes that make each restored
 * guest's generators unique. The host is never restored from a snapshot, so Node's generator is
 * safe here; inside a guest it would not be.
 */
import { randomBytes, randomInt, randomUUID } from "node:crypto";
import { type MachineIdentity, entropyBytes } from "@torpor/protocol";

const idAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789";

/** A sandbox id: `i` and 20 characters of a-z and 0-9, which fits a DNS label after "<port>-". */
export function newSandboxId(): string {
  return `i${randomId(20)}`;
}

/**
 * A snapshot id: 20 characters of a-z and 0-9, like a template's, because both can be the source of
 * a sandbox.
 */
export function newSnapshotId(): string {
  return randomId(20);
}

/** A disk layer id. It begins with a letter, as QEMU requires of node names. */
export function newDiskLayerId(): string {
  return `d${randomId(20)}`;
}

/** The identity that distinguishes a new sandbox's machine from all others. */
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

/** A secret of 256 bits, in hex. */
export function newSecret(): string {
  return randomBytes(32).toString("hex");
}

/** Entropy for one init of one guest, in base64. */
export function newGuestEntropy(): string {
  return randomBytes(entropyBytes).toString("base64");
}
