/**
 * The body of a request for a new sandbox, in both generations of the E2B wire.
 *
 * A feature that this version lacks is refused when it is asked for, and accepted when the field
 * asks for nothing, such as an empty list of volumes. `mcp` is for the client's own use and asks
 * nothing of a server.
 */
import {
  type JsonObject,
  TorporError,
  optional,
  parseBoolean,
  parseObject,
  parseString,
  parseStringMap,
} from "@torpor/std";
import type { LifetimeRequest } from "../lifecycle/lifetime.ts";
import type { AutoResume } from "../records/sandbox-records.ts";
import type { CreateRequest } from "../sandboxes.ts";
import { refuse } from "./fields.ts";
import { type Generation, defaultTimeoutMs, parseLifetime } from "./lifetimes.ts";
import { parseNewNetwork } from "./network-body.ts";

const referenceCharsMax = 400;

/** Parses the body of a create. @throws argument.invalid, operation.unimplemented */
export function parseNewSandbox(
  body: JsonObject,
  generation: Generation,
  timeoutMsMax: number,
): CreateRequest {
  refuseUnsupported(body);
  const lifetime = parseLifetime(body, defaultTimeoutMs[generation], timeoutMsMax);
  const secure = generation === "v2" || (optional(body["secure"], parseBoolean, "secure") ?? false);
  const network = parseNewNetwork(body);
  if (network?.allowPublicTraffic === false && !secure) {
    throw new TorporError("argument.invalid", "allowPublicTraffic: false needs secure: true");
  }
  const autoResume = parseAutoResume(body, lifetime);
  parseKeepMemory(body, lifetime, autoResume);
  return {
    template: parseString(body["templateID"], "templateID", referenceCharsMax),
    metadata: optional(body["metadata"], parseStringMap, "metadata") ?? {},
    envVars: optional(body["envVars"], parseEnvVars, "envVars") ?? {},
    lifetime,
    secure,
    network,
    autoResume,
  };
}

/**
 * Accepts what a process can have: no name is empty or contains "=", and no byte is zero.
 * @throws argument.invalid
 */
function parseEnvVars(value: unknown, what: string): Readonly<Record<string, string>> {
  const envVars = parseStringMap(value, what);
  for (const [name, text] of Object.entries(envVars)) {
    const shown = JSON.stringify(name);
    if (name === "") throw new TorporError("argument.invalid", `${what}: a name is empty`);
    if (name.includes("=")) {
      throw new TorporError("argument.invalid", `${what}: the name ${shown} holds "="`);
    }
    if (`${name}${text}`.includes("\0")) {
      throw new TorporError("argument.invalid", `${what}: ${shown} holds a zero byte`);
    }
  }
  return envVars;
}

function parseAutoResume(body: JsonObject, { timeoutMs }: LifetimeRequest): AutoResume | undefined {
  const { enabled } = optional(body["autoResume"], parseObject, "autoResume") ?? {};
  if (!(optional(enabled, parseBoolean, "autoResume.enabled") ?? false)) return undefined;
  return { timeoutMs: timeoutMs ?? null };
}

/** @throws argument.invalid; operation.unimplemented for a pause that would keep the disk only */
function parseKeepMemory(
  body: JsonObject,
  { onTimeout }: LifetimeRequest,
  autoResume: AutoResume | undefined,
): void {
  const keep = optional(body["autoPauseMemory"], parseBoolean, "autoPauseMemory") ?? true;
  if (keep) return;
  if (onTimeout !== "pause") {
    throw new TorporError("argument.invalid", "autoPauseMemory: false needs autoPause: true");
  }
  if (autoResume !== undefined) {
    throw new TorporError("argument.invalid", "autoPauseMemory: false excludes autoResume");
  }
  refuse("a pause always keeps the memory here: autoPauseMemory: false is not supported");
}

function refuseUnsupported(body: JsonObject): void {
  const { volumeMounts } = body;
  if (Array.isArray(volumeMounts) && volumeMounts.length > 0) {
    refuse("there are no volumes yet: volumeMounts is not supported");
  }
  const { tokens } = optional(body["iam"], parseObject, "iam") ?? {};
  if (Object.keys(optional(tokens, parseObject, "iam.tokens") ?? {}).length > 0) {
    refuse("there are no identity tokens: iam.tokens is not supported");
  }
  optional(body["mcp"], parseObject, "mcp");
}
