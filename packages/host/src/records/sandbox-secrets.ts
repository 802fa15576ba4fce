/** What of a sandbox's record is sealed at rest: whoever knows it is the sandbox's host or its user. */
import type { Sealer } from "@torpor/storage";

export interface SandboxSecrets {
  /** Authorises the host's calls to the guest's agent. */
  readonly hostKey: string;
  /** What the agent asks of clients; null: nothing. */
  readonly accessToken: string | null;
  readonly envVars: Readonly<Record<string, string>>;
}

export function sealSecrets(
  sealer: Sealer,
  sandboxId: string,
  { hostKey, accessToken, envVars }: SandboxSecrets,
): string {
  return sealer.seal(JSON.stringify({ hostKey, accessToken, envVars }), placeOf(sandboxId));
}

/** @throws secrets.locked, secrets.damaged */
export function openSecrets(sealer: Sealer, sandboxId: string, sealed: string): SandboxSecrets {
  // What opens is what `sealSecrets` sealed for this sandbox.
  return JSON.parse(sealer.open(sealed, placeOf(sandboxId))) as SandboxSecrets;
}

function placeOf(sandboxId: string): string {
  return `the sandbox ${sandboxId}`;
}
