/**
 * Which fields a request body may have: those that the OpenAPI document lists. The daemon refuses
 * an unknown field by its name, because a client newer than this daemon would take silence for
 * consent. It ignores an unknown field that asks for nothing, such as an empty list.
 */
import { TorporError } from "@torpor/std";
import { type Schema, type SchemaName, schemas } from "./openapi/schemas.ts";

/**
 * Checks a body against the schema, nested objects included.
 * @throws argument.invalid with the name of the field
 */
export function refuseUnknownFields(body: unknown, name: SchemaName): void {
  refuseBeyond(body, schemas[name], "");
}

function refuseBeyond(value: unknown, { properties }: Schema, prefix: string): void {
  if (!isObject(value) || !isObject(properties)) return;
  for (const [name, field] of Object.entries(value)) {
    const known = Object.hasOwn(properties, name) ? properties[name] : undefined;
    if (isObject(known)) refuseBeyond(field, known, `${prefix}${name}.`);
    else if (!asksForNothing(field)) throw unknownField(`${prefix}${name}`, properties);
  }
}

function unknownField(name: string, properties: object): TorporError {
  return new TorporError("argument.invalid", `${name} is no field that this version knows here`, {
    advice: `Leave it out. Known are ${Object.keys(properties).join(", ")}.`,
  });
}

function asksForNothing(value: unknown): boolean {
  return value === null || (typeof value === "object" && Object.keys(value).length === 0);
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
