/**
 * Small parsers for values from outside: each returns the typed value or throws `argument.invalid`
 * with the name of the field. Anything a guest, a client or a file on disk says goes through these.
 */
import { TorporError } from "./errors.ts";

/** A parsed JSON object whose fields are not checked yet. */
export type JsonObject = Readonly<Record<string, unknown>>;

/**
 * LIMIT: nothing that Torpor reads has ten levels. JSON.parse accepts any number of them, but a
 * function that recurses for each, JSON.stringify included, overflows its stack at some thousands.
 */
const levelsMax = 200;

/** @throws argument.invalid when the text is not JSON, or is nested too deeply. */
export function parseJson(text: string, what: string): unknown {
  if (isDeep(text)) throw invalid(what, `has more than ${levelsMax} levels`);
  try {
    return JSON.parse(text) as unknown;
  } catch (cause) {
    throw invalid(what, "is not valid JSON", cause);
  }
}

function isDeep(text: string): boolean {
  // Every bracket that opens also closes, so a shorter text cannot be too deep.
  if (text.length < 2 * levelsMax) return false;
  let level = 0;
  let isInString = false;
  for (let at = 0; at < text.length && level <= levelsMax; at += 1) {
    const mark = text[at];
    if (mark === '"') isInString = !isInString;
    else if (isInString) at += mark === "\\" ? 1 : 0;
    else if (mark === "[" || mark === "{") level += 1;
    else if (mark === "]" || mark === "}") level -= 1;
  }
  return level > levelsMax;
}

/** Shows a value from outside in a message: text as it is, anything else as JSON. */
export function shownValue(value: unknown): string {
  return typeof value === "string" ? value : (JSON.stringify(value) ?? "nothing");
}

/** Accepts an object that is neither null nor an array. @throws argument.invalid */
export function parseObject(value: unknown, what: string): JsonObject {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw invalid(what, "must be an object");
  }
  return value as JsonObject;
}

/** Accepts a string of at most `charsMax` UTF-16 code units. @throws argument.invalid */
export function parseString(value: unknown, what: string, charsMax = 65_536): string {
  if (typeof value !== "string") throw invalid(what, "must be a string");
  if (value.length > charsMax) throw invalid(what, `must have at most ${charsMax} characters`);
  return value;
}

/** Accepts a whole number from `min` to `max`, both included. @throws argument.invalid */
export function parseInteger(value: unknown, what: string, min: number, max: number): number {
  if (typeof value !== "number" || !Number.isSafeInteger(value)) {
    throw invalid(what, "must be a whole number");
  }
  if (value < min || value > max) throw invalid(what, `must be from ${min} to ${max}`);
  return value;
}

/**
 * Accepts decimal digits and nothing else, as headers, queries and variables hold numbers: no "",
 * "0x10", "1e3". @throws argument.invalid
 */
export function parseIntegerText(text: unknown, what: string, min: number, max: number): number {
  const isNumber = typeof text === "string" && /^\d{1,16}$/.test(text);
  return parseInteger(isNumber ? Number(text) : undefined, what, min, max);
}

/** Accepts true or false. @throws argument.invalid */
export function parseBoolean(value: unknown, what: string): boolean {
  if (typeof value !== "boolean") throw invalid(what, "must be true or false");
  return value;
}

/** Accepts one of a closed list of words. @throws argument.invalid */
export function parseOneOf<T extends string>(value: unknown, what: string, words: readonly T[]): T {
  const found = words.find((word) => word === value);
  if (found !== undefined) return found;
  throw invalid(what, `must be one of ${words.join(", ")}`);
}

/**
 * Accepts a map from string to string, such as environment variables or metadata. @throws
 * argument.invalid
 */
export function parseStringMap(value: unknown, what: string): Readonly<Record<string, string>> {
  const entries = Object.entries(parseObject(value, what));
  return Object.fromEntries(
    entries.map(([key, entry]) => [key, parseString(entry, `${what}.${key}`)]),
  );
}

/** Applies a parser to a field that may be missing or null. */
export function optional<T>(
  value: unknown,
  parse: (value: unknown, what: string) => T,
  what: string,
): T | undefined {
  return value === undefined || value === null ? undefined : parse(value, what);
}

function invalid(what: string, problem: string, cause?: unknown): TorporError {
  return new TorporError("argument.invalid", `${what} ${problem}`, { cause });
}
