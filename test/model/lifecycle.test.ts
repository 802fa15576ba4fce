/**
 * The lifecycle of sandboxes against its model: scripts that seeds make, played by the real host code in
 * a world of fake VMs.
 *
 *     TORPOR_MODEL_SEEDS=1000 npm test -- test/model      so many fresh seeds
 *     TORPOR_MODEL_SEED=42 npm test -- test/model         this one, and nothing else
 *
 * Seeds that have failed once, of code that was broken on purpose too, are in seeds.json and always played.
 */
import { randomInt } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { inspect } from "node:util";
import { test } from "node:test";
import { play } from "./player.ts";
import { type Script, makeScript } from "./script.ts";
import { shrink } from "./shrink.ts";

const freshCount = Number(process.env["TORPOR_MODEL_SEEDS"] ?? 40);
const shrinkMs = 30_000;
/** A script that fails is played often: it is not waited for as long as one that may go well. */
const shrinkRestMs = 1_500;

async function regressionSeeds(): Promise<readonly number[]> {
  const text = await readFile(join(import.meta.dirname, "seeds.json"), "utf8");
  return JSON.parse(text) as number[];
}

async function failureOf(script: Script, restMs?: number): Promise<unknown> {
  return await play(script, restMs).then(
    () => undefined,
    (cause: unknown) => cause,
  );
}

/** @throws what failed, with the seed and the shortest script that fails too */
async function playSeed(seed: number): Promise<void> {
  const script = makeScript(seed);
  const failure = await failureOf(script);
  if (failure === undefined) return;
  const fails = async (shorter: Script): Promise<boolean> =>
    (await failureOf(shorter, shrinkRestMs)) !== undefined;
  const short = await shrink(script, fails, performance.now() + shrinkMs);
  const shortFailure = (await failureOf(short)) ?? failure;
  const turns = short.turns.map((turn) => JSON.stringify(turn)).join("\n  ");
  throw new Error(
    `TORPOR_MODEL_SEED=${seed} fails; the shortest script that does, ` +
      `saveWhole ${short.saveWhole}:\n  ${turns}\n${inspect(shortFailure)}`,
    { cause: failure },
  );
}

const only = process.env["TORPOR_MODEL_SEED"];
if (only === undefined) {
  test("scripts that have failed once go as the model says", async () => {
    for (const seed of await regressionSeeds()) await playSeed(seed);
  });
  const first = randomInt(2 ** 31);
  test(`fresh scripts go as the model says, seeds ${first} and on`, async () => {
    for (let seed = first; seed < first + freshCount; seed += 1) await playSeed(seed);
  });
} else {
  test(`script ${only} goes as the model says`, async () => await playSeed(Number(only)));
}
