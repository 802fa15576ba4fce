/** A test of one parser, for the short run and for the long one. */
import { test } from "node:test";
import { inspect } from "node:util";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { type Failure, type Target, fuzz, problemWith } from "./fuzz.ts";

const seed = Number(process.env["TORPOR_FUZZ_SEED"] ?? 1);

/** Inputs that broke a parser before, in base64, by the parser's name. */
const regressions = JSON.parse(
  readFileSync(join(import.meta.dirname, "regressions.json"), "utf8"),
) as Readonly<Record<string, readonly string[]>>;

export function regressionsOf({ name }: Target): readonly Buffer[] {
  return (regressions[name] ?? []).map((text) => Buffer.from(text, "base64"));
}

export const regressionNames: readonly string[] = Object.keys(regressions);

/** What `npm run test:long` tries of each parser. */
export const longInputs = 1_000_000;

export function testTarget(target: Target, inputs: number): void {
  test(`${target.name} holds`, async () => {
    for (const input of regressionsOf(target)) {
      const cause = await problemWith(target, input);
      if (cause !== undefined) fail(target, { input, cause });
    }
    const kept = { ...target, seeds: [...target.seeds, ...regressionsOf(target)] };
    const failure = await fuzz(kept, { inputs, seed });
    if (failure !== undefined) fail(target, failure);
  });
}

function fail({ name }: Target, { input, cause }: Failure): never {
  const shown = inspect(input.toString().slice(0, 500));
  const text = input.toString("base64");
  throw new Error(
    `${name} is broken by ${shown}\nfor regressions.json, with seed ${seed}: "${text.slice(0, 4_000)}"`,
    { cause },
  );
}
