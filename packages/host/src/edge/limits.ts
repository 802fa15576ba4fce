/** LIMITS that both sides of the edge share. */

/** Of the head of a request or an answer; cookies are what grows. */
export const headBytesMax = 64 * 1024;
/** Of a guest's interim answers before one that is final: nothing slows them down. */
export const interimMax = 32;
/** Streams may be silent for long; a peer whose machine is gone is found out after so much silence. */
export const deadPeerMs = 60_000;
