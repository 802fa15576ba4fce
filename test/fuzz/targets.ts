/** How a parser becomes a target: what goes in, and what may come out but a value. */
import { TorporError, parseJson, parseObject } from "@torpor/std";
import type { Target } from "./fuzz.ts";

const folder = "packages";

/** A documented refusal: an error of ours, or one that an RPC is refused with as the client's mistake. */
function isRefusal(cause: unknown): boolean {
  if (TorporError.is(cause)) return true;
  if (!(cause instanceof Error)) return false;
  if (cause.name === "ConnectError") return "code" in cause && cause.code === 3;
  return cause.constructor.name === "SyntaxFault";
}

function refusing(run: (input: Buffer) => unknown): (input: Buffer) => unknown {
  const judge = (cause: unknown): void => {
    if (!isRefusal(cause)) throw cause;
  };
  return (input) => {
    try {
      const result = run(input);
      return result instanceof Promise ? result.catch(judge) : result;
    } catch (cause) {
      judge(cause);
      return undefined;
    }
  };
}

/** @param name Of a parser of text, after `packages/`. */
export function text(
  name: string,
  seeds: readonly string[],
  run: (input: string) => unknown,
): Target {
  return {
    name: `${folder}/${name}`,
    kind: "text",
    seeds: seeds.map((seed) => Buffer.from(seed)),
    run: refusing((input) => run(input.toString())),
  };
}

export function bytes(
  name: string,
  seeds: readonly (Buffer | string)[],
  run: (input: Buffer) => unknown,
): Target {
  return {
    name: `${folder}/${name}`,
    kind: "bytes",
    seeds: seeds.map((seed) => (typeof seed === "string" ? Buffer.from(seed, "latin1") : seed)),
    run: refusing(run),
  };
}

/** Of text that is JSON as a rule. */
export function jsonText(
  name: string,
  seeds: readonly unknown[],
  run: (input: string) => unknown,
): Target {
  return {
    name: `${folder}/${name}`,
    kind: "json",
    seeds: seeds.map((seed) => Buffer.from(JSON.stringify(seed))),
    run: refusing((input) => run(input.toString())),
  };
}

/** Of a value that came as JSON, as `parseJson` gives it to all that read one. */
export function json(
  name: string,
  seeds: readonly unknown[],
  run: (value: unknown) => unknown,
): Target {
  return jsonText(name, seeds, (input) => run(parseJson(input, "it")));
}

/** The fields that are strings, as headers and queries are. */
export function stringsOf(value: unknown): Record<string, string> {
  const entries = Object.entries(parseObject(value, "it"));
  return Object.fromEntries(
    entries.filter((entry): entry is [string, string] => typeof entry[1] === "string"),
  );
}
