/**
 * Every parser of outside bytes with some thousand inputs that a seed decides, and with those that broke
 * one before. `npm run test:long` tries a million of each.
 *
 * `TORPOR_FUZZ_SEED=7` begins elsewhere. An input that fails goes into regressions.json with the fix.
 */
import assert from "node:assert/strict";
import { glob, readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { notFuzzed, targets } from "./all-targets.ts";
import { fuzz } from "./fuzz.ts";
import { bytes } from "./targets.ts";
import { regressionNames, testTarget } from "./test-target.ts";

const inputs = 1_000;
const root = join(import.meta.dirname, "../..");

for (const target of targets) testTarget(target, inputs);

/** What is exported under a name that says that it reads something somebody else wrote. */
const parserPattern =
  /^export (?:async )?function\*? ((?:parse|decode)\w+)|^export class (\w*(?:Reader|Parser|Frames|Envelopes|Regions))\b/gm;

test("every parser that is exported is fuzzed, or it is said why not", async () => {
  const known = new Set([...targets.map(({ name }) => name), ...Object.keys(notFuzzed)]);
  const found: string[] = [];
  const files = glob("packages/*/src/**/*.ts", { cwd: root });
  for await (const file of files) {
    if (/\.test\.ts$|fixtures?\.ts$|\/gen\/|^packages\/testing\//.test(file)) continue;
    const code = await readFile(join(root, file), "utf8");
    for (const [, parse, reader] of code.matchAll(parserPattern)) {
      found.push(`${file} ${parse ?? reader}`);
    }
  }
  assert.deepEqual(
    found.filter((name) => !known.has(name)),
    [],
  );
  for (const name of Object.keys(notFuzzed)) assert.ok(found.includes(name), name);
});

test("every regression is of a parser that is fuzzed", () => {
  const names = targets.map(({ name }) => name);
  assert.deepEqual(
    regressionNames.filter((name) => !names.includes(name)),
    [],
  );
  assert.equal(new Set(names).size, names.length);
});

test("the fuzzer finds what only code that few inputs reach does wrong, and shortens it", async () => {
  const { tlsServerName } = await import("../../packages/network/src/announced-name.ts");
  const { parseQuestion } = await import("../../packages/network/src/dns-message.ts");
  const question = Buffer.from(
    "\0\x01\x01\0\0\x01\0\0\0\0\0\0\x07example\x03com\0\0\x01\0\x01",
    "latin1",
  );
  // Broken for one kind of record, which comes only to a message that is right in every other byte.
  const broken = bytes("x broken", [question.subarray(0, 20)], (input) => {
    tlsServerName(input);
    if (parseQuestion(input) !== undefined) throw new TypeError("broken");
  });
  const failure = await fuzz(broken, { inputs: 300_000, seed: 1 });
  assert.ok(failure?.cause instanceof TypeError);
  assert.ok(failure.input.length <= question.length, failure.input.toString("latin1"));
});
