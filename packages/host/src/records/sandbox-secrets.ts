/**
 * The part of a sandbox's record that is sealed at rest: knowing it is enough to act as the
 * sandbox's host or as its user.
 */
import type { Sealer } from "@torpor/storage";

/** The secrets of one sandbox, in plain text. */
export interface SandboxSecrets {
  /** Authorises the host's calls to the guest's agent; 256 bits, hex. */
  readonly hostKey: string;
  /** The token that the agent requires of clients; null: none. */
  readonly accessToken: string | null;
  readonly envVars: Readonly<Record<string, string>>;
}

/** Seals the secrets for this sandbox; the result opens only with the same `sandboxId`. */
export function sealSecrets(
  sealer: Sealer,
  sandboxId: string,
  { hostKey, accessToken, envVars }: SandboxSecrets,
): string {
  return sealer.seal(JSON.stringify({ hostKey, accessToken, envVars }), placeOf(sandboxId));
}

/** Opens what `sealSecrets` sealed for this sandbox. @throws secrets.locked, secrets.damaged */
export function openSecrets(sealer: Sealer, sandboxId: string, sealed: string): SandboxSecrets {
  // No check of the shape: only what `sealSecrets` sealed for this sandbox opens.
  return JSON.parse(sealer.open(sealed, placeOf(sandboxId))) as SandboxSecrets;
}

function placeOf(sandboxId: string): string {
  return `the sandbox ${sandboxId}`;
}
