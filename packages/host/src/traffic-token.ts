/**
 * The token that clients of a guest's ports present when its traffic is not public. It is derived
 * from the sandbox's host key, so it is the same for as long as the sandbox exists, and a fork has
 * another.
 */
import { createHmac } from "node:crypto";
import type { SandboxRecord } from "./records/sandbox-records.ts";

/** The sandbox's traffic token, in hex; null if its ports are open to everyone. */
export function trafficTokenOf({
  id,
  hostKey,
  network,
}: Pick<SandboxRecord, "id" | "hostKey" | "network">): string | null {
  if (network === null || network.allowPublicTraffic) return null;
  return createHmac("sha256", Buffer.from(hostKey, "hex")).update(`traffic ${id}`).digest("hex");
}
