/**
 * Feeds a parser with inputs that a seed decides, and keeps those which reach code that none before has
 * reached, to make more of them.
 *
 * A parser holds when it returns or throws what its target allows, and does so in bounded time. An input
 * that breaks it is made shorter as long as it fails in the same way.
 */
import { Random } from "../model/random.ts";
import { Coverage } from "./coverage.ts";
import { mutateBytes, mutateJson, pick } from "./mutate.ts";

export interface Target {
  /** File and name of the parser, as `packages/std/src/parse.ts parseJson`. */
  readonly name: string;
  readonly kind: "bytes" | "text" | "json";
  readonly seeds: readonly Buffer[];
  /** Throws, or rejects, when the parser does not hold. */
  run(input: Buffer): unknown;
}

export interface Failure {
  readonly input: Buffer;
  readonly cause: unknown;
}

export interface FuzzOptions {
  readonly inputs: number;
  readonly seed: number;
}

/** LIMIT: of one input, on a machine that does other things; a hang takes for ever. */
const inputMsMax = 2_000;
const slowTries = 3;
const batchMin = 64;
const batchMax = 8_192;
/** LIMIT: of inputs that are kept; what is made of long ones is long, and takes long. */
const corpusMax = 2_000;
const keptBytesMax = 4_096;
const shrinkTriesMax = 2_000;

/** @returns the first failure, made as short as it could be; undefined when all inputs held. */
export async function fuzz(
  target: Target,
  { inputs, seed }: FuzzOptions,
): Promise<Failure | undefined> {
  using coverage = new Coverage();
  const random = new Random(seed);
  const corpus = [...target.seeds];
  for (const input of corpus) {
    const cause = await problemWith(target, input);
    if (cause !== undefined) return await shrink(target, { input, cause });
  }
  coverage.takeNew();
  const mutate = target.kind === "json" ? mutateJson : mutateBytes;
  let batchInputs = batchMin;
  for (let done = 0; done < inputs;) {
    const batch: Buffer[] = [];
    while (batch.length < batchInputs && done < inputs) {
      const input = mutate(pick(corpus, random), pick(corpus, random), random);
      const cause = await problemWith(target, input);
      if (cause !== undefined) return await shrink(target, { input, cause });
      batch.push(input);
      done += 1;
    }
    const fresh = coverage.takeNew();
    batchInputs = fresh.size > 0 ? batchMin : Math.min(batchInputs * 2, batchMax);
    if (corpus.length >= corpusMax) continue;
    const kept = await reaching(target, batch, fresh, coverage);
    corpus.push(...kept.filter(({ length }) => length <= keptBytesMax));
  }
  return undefined;
}

/** What is wrong with how the target takes the input, or undefined. */
export async function problemWith(target: Target, input: Buffer): Promise<unknown> {
  for (let tries = 0; tries < slowTries; tries += 1) {
    const startedMs = performance.now();
    try {
      const result = target.run(input);
      if (result instanceof Promise) await result;
    } catch (cause) {
      return cause ?? new Error("nothing was thrown");
    }
    if (performance.now() - startedMs < inputMsMax) return undefined;
  }
  return new Error(`it takes more than ${inputMsMax} ms`);
}

/** The inputs of a batch that reach blocks, found by halves. */
async function reaching(
  target: Target,
  batch: readonly Buffer[],
  blocks: ReadonlySet<string>,
  coverage: Coverage,
): Promise<readonly Buffer[]> {
  if (blocks.size === 0 || batch.length <= 1) return blocks.size === 0 ? [] : batch;
  const middle = batch.length >> 1;
  const half = batch.slice(0, middle);
  for (const input of half) await problemWith(target, input);
  const here = blocks.intersection(coverage.take());
  return [
    ...(await reaching(target, half, here, coverage)),
    ...(await reaching(target, batch.slice(middle), blocks.difference(here), coverage)),
  ];
}

async function shrink(target: Target, failure: Failure): Promise<Failure> {
  let best = failure;
  let tries = 0;
  for (let length = best.input.length >> 1; length > 0; length >>= 1) {
    for (let at = 0; at < best.input.length && tries < shrinkTriesMax; tries += 1) {
      const input = Buffer.concat([best.input.subarray(0, at), best.input.subarray(at + length)]);
      const cause = await problemWith(target, input);
      if (cause !== undefined && kindOf(cause) === kindOf(best.cause)) best = { input, cause };
      else at += length;
    }
  }
  return best;
}

function kindOf(cause: unknown): string {
  return cause instanceof Error ? `${cause.name} ${cause.message.slice(0, 20)}` : String(cause);
}
