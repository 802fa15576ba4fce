/**
 * What clients of a guest's ports show when its traffic is not public. It follows from the sandbox's
 * host key, so it is the same for as long as the sandbox exists, and a fork has another.
 */
import { createHmac } from "node:crypto";
import type { SandboxRecord } from "./records/sandbox-records.ts";

/** Null: its ports are open to everybody. */
export function trafficTokenOf({
  id,
  hostKey,
  network,
}: Pick<SandboxRecord, "id" | "hostKey" | "network">): string | null {
  if (network === null || network.allowPublicTraffic) return null;
  return createHmac("sha256", Buffer.from(hostKey, "hex")).update(`traffic ${id}`).digest("hex");
}
