/**
 * The host's own randomness for guests: identifiers, keys, and the bytes that make each restored
 * guest's generators its own. The host is never restored from a snapshot, so Node's generator is
 * safe here; inside a guest it would not be.
 */
import { randomBytes, randomInt } from "node:crypto";
import { entropyBytes } from "@torpor/protocol";

const idAlphabet = "abcdefghijklmnopqrstuvwxyz0123456789";

/** `i` and 20 characters of a-z and 0-9: fits a DNS label after "<port>-". */
export function newSandboxId(): string {
  return `i${Array.from({ length: 20 }, () => idAlphabet[randomInt(idAlphabet.length)]).join("")}`;
}

/** 256 bits, hex. */
export function newSecret(): string {
  return randomBytes(32).toString("hex");
}

/** For one init of one guest, base64. */
export function newGuestEntropy(): string {
  return randomBytes(entropyBytes).toString("base64");
}
