/** Parts of requests that many routes read: ids, query parameters, bodies that may be missing. */
import {
  type JsonObject,
  TorporError,
  parseIntegerText,
  parseObject,
  parseString,
} from "@torpor/std";
import type { ApiRequest } from "./route.ts";

/** LIMIT: characters of a name or an id. */
export const nameCharsMax = 128;
/** LIMIT: characters of a name, a tag, the team and the separators. */
const referenceCharsMax = 400;
const sandboxIdPattern = /^[a-z0-9]{1,64}$/;

/**
 * The sandbox id of the path. E2B's older clients append a dash and the id of a client, which is
 * ignored.
 * @throws argument.invalid
 */
export function sandboxIdOf(request: ApiRequest): string {
  return parseSandboxId(request.params["sandboxID"], "sandbox id");
}

/** Parses a sandbox id, with or without the id of a client. @throws argument.invalid */
export function parseSandboxId(value: unknown, what: string): string {
  const [id = "", ...rest] = parseString(value, what, nameCharsMax).split("-");
  if (sandboxIdPattern.test(id) && rest.length < 2) return id;
  throw new TorporError("argument.invalid", `${what} is not one: use a-z and 0-9`);
}

/** The template or snapshot of the path: an id or a name. @throws argument.invalid */
export function templateIdOf(request: ApiRequest): string {
  return parseString(request.params["templateID"], "template id", referenceCharsMax);
}

/** A query parameter as text; if it is given more than once, the values joined by commas. */
export function queryText(request: ApiRequest, name: string): string | undefined {
  const value = request.query[name];
  return value === undefined || typeof value === "string" ? value : value.join(",");
}

/** A query parameter as an integer; undefined if absent. @throws argument.invalid */
export function queryInteger(
  request: ApiRequest,
  name: string,
  min: number,
  max: number,
): number | undefined {
  const text = queryText(request, name);
  return text === undefined ? undefined : parseIntegerText(text, name, min, max);
}

/** The body of a request that must have one. @throws argument.invalid */
export function bodyOf({ body }: ApiRequest): JsonObject {
  return parseObject(body, "body");
}

/** The body of a request; empty if it is missing or null. @throws argument.invalid */
export function bodyOrNone({ body }: ApiRequest): JsonObject {
  return parseObject(body ?? {}, "body");
}

/** Refuses a request that is valid but not supported. @throws operation.unimplemented */
export function refuse(what: string): never {
  throw new TorporError("operation.unimplemented", what);
}
