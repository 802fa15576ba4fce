/**
 * A million random conversations through the edge, of another seed each day. `TORPOR_FUZZ_INPUTS` and
 * `TORPOR_FUZZ_SEED` say otherwise; a seed that fails goes into the list of `test/hostile/fuzz.test.ts`.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { fuzzEdge } from "../hostile/fuzz.ts";

const inputs = Number(process.env["TORPOR_FUZZ_INPUTS"] ?? 1_000_000);
const msPerDay = 86_400_000;
const seed = Number(process.env["TORPOR_FUZZ_SEED"] ?? Math.floor(Date.now() / msPerDay));

test(`two readers see the same in ${inputs} conversations of seed ${seed}`, async () => {
  const { sent, seen, own } = await fuzzEdge(seed, inputs);
  assert.ok(seen > inputs / 4 && sent >= seen && own >= Math.floor(inputs / 4));
});
