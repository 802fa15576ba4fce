/**
 * Firecracker's API according to contract.json, and the faults of a request that violates it,
 * worded like Firecracker's own.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { formatRelease, isBefore, parseRelease } from "@torpor/vmm";

/** The shape of a body or a field. */
export interface Schema {
  readonly type?: "object" | "array" | "string" | "integer" | "boolean";
  readonly enum?: readonly string[];
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly additionalProperties?: boolean;
  readonly items?: Schema;
  readonly minimum?: number;
  readonly maximum?: number;
  /** The first release with this field. */
  readonly since?: string;
}

/** A request that Firecracker serves. */
export interface Operation {
  readonly method: string;
  /** The path, with names in braces for its variable parts. */
  readonly path: string;
  readonly when: "any" | "notStarted" | "started" | "paused";
  readonly success: number;
  readonly body?: Schema;
  readonly answer?: Schema;
}

interface Contract {
  readonly source: string;
  readonly operations: readonly Operation[];
}

const contract = JSON.parse(
  readFileSync(join(import.meta.dirname, "contract.json"), "utf8"),
) as Contract;

/** All operations, for the newest release. */
export const operations: readonly Operation[] = contract.operations;

/** Finds the operation of a request; undefined when there is none. */
export function findOperation(method: string, path: string): Operation | undefined {
  const parts = path.split("/");
  return operations.find((operation) => {
    const wanted = operation.path.split("/");
    return (
      operation.method === method &&
      wanted.length === parts.length &&
      wanted.every((part, index) => part.startsWith("{") || part === parts[index])
    );
  });
}

/** Says what is wrong with a body, as this release would; undefined when nothing is. */
export function faultIn(schema: Schema, value: unknown, release: string): string | undefined {
  const { type, enum: variants, minimum = 0, maximum = Number.MAX_SAFE_INTEGER } = schema;
  if (type === "object") return faultInObject(schema, value, release);
  if (type === "array") {
    if (!Array.isArray(value)) return `invalid type: ${kindOf(value)}, expected a sequence`;
    for (const item of value as unknown[]) {
      const fault = faultIn(schema.items ?? {}, item, release);
      if (fault !== undefined) return fault;
    }
    return undefined;
  }
  if (type === "integer") {
    const fits = Number.isInteger(value) && Number(value) >= minimum && Number(value) <= maximum;
    return fits ? undefined : `invalid value: ${kindOf(value)} ${String(value)}`;
  }
  if (type !== undefined && typeof value !== type) {
    return `invalid type: ${kindOf(value)}, expected a ${type}`;
  }
  if (variants === undefined || variants.includes(String(value))) return undefined;
  return `unknown variant \`${String(value)}\`, expected one of ${listed(variants)}`;
}

function faultInObject(schema: Schema, value: unknown, release: string): string | undefined {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return `invalid type: ${kindOf(value)}, expected a map`;
  }
  const { properties = {}, required = [] } = schema;
  const known = Object.entries(properties).filter(([, { since }]) => isIn(release, since));
  const names = known.map(([name]) => name);
  for (const [name, field] of Object.entries(value as Record<string, unknown>)) {
    const fieldSchema = names.includes(name) ? properties[name] : undefined;
    if (fieldSchema === undefined) {
      return `unknown field \`${name}\`, expected one of ${listed(names)}`;
    }
    const fault = faultIn(fieldSchema, field, release);
    if (fault !== undefined) return fault;
  }
  const missing = required.find((name) => !(name in value));
  return missing === undefined ? undefined : `missing field \`${missing}\``;
}

function isIn(release: string, since: string | undefined): boolean {
  return since === undefined || !isBefore(parseRelease(release), parseRelease(since));
}

function listed(names: readonly string[]): string {
  return names.map((name) => `\`${name}\``).join(", ");
}

function kindOf(value: unknown): string {
  return value === null ? "null" : Array.isArray(value) ? "sequence" : typeof value;
}

/** The release that the contract was taken from. */
export const contractRelease: string = formatRelease(parseRelease(contract.source));
