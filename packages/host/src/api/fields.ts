/** What many routes read of a request: ids, parameters of the query, bodies that may be missing. */
import {
  type JsonObject,
  TorporError,
  parseIntegerText,
  parseObject,
  parseString,
} from "@torpor/std";
import type { ApiRequest } from "./route.ts";

export const nameCharsMax = 128;
/** LIMIT: a name, a tag, the team and what is between them. */
const referenceCharsMax = 400;
const sandboxIdPattern = /^[a-z0-9]{1,64}$/;

/**
 * Of the path. E2B's older clients append a dash and the id of a client, which means nothing.
 * @throws argument.invalid
 */
export function sandboxIdOf(request: ApiRequest): string {
  return parseSandboxId(request.params["sandboxID"], "sandbox id");
}

export function parseSandboxId(value: unknown, what: string): string {
  const [id = "", ...rest] = parseString(value, what, nameCharsMax).split("-");
  if (sandboxIdPattern.test(id) && rest.length < 2) return id;
  throw new TorporError("argument.invalid", `${what} is not one: use a-z and 0-9`);
}

/** A template or a snapshot, as the path names it. */
export function templateIdOf(request: ApiRequest): string {
  return parseString(request.params["templateID"], "template id", referenceCharsMax);
}

/** A text of the query; a parameter that is given more than once is a list with commas. */
export function queryText(request: ApiRequest, name: string): string | undefined {
  const value = request.query[name];
  return value === undefined || typeof value === "string" ? value : value.join(",");
}

/** @throws argument.invalid */
export function queryInteger(
  request: ApiRequest,
  name: string,
  min: number,
  max: number,
): number | undefined {
  const text = queryText(request, name);
  return text === undefined ? undefined : parseIntegerText(text, name, min, max);
}

/** A body that has to be there. @throws argument.invalid */
export function bodyOf({ body }: ApiRequest): JsonObject {
  return parseObject(body, "body");
}

/** A body that may be missing, or be null. @throws argument.invalid */
export function bodyOrNone({ body }: ApiRequest): JsonObject {
  return parseObject(body ?? {}, "body");
}

/** For a wish that is understood and cannot be met. */
export function refuse(what: string): never {
  throw new TorporError("operation.unimplemented", what);
}
