import assert from "node:assert/strict";
import { test } from "node:test";
import { planFold } from "./fold-plan.ts";

const seeds = [1, 2, 3, 4, 5, 6, 7, 8];
const pauses = 1000;
const emptyLayerBytes = 256 * 1024;

/** Numbers from 0 to 1, the same for the same seed. */
function seededRandom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return state / 2 ** 32;
  };
}

/** The size of the layer that a pause may add, from nothing to hundreds of MiB. */
const pauseSizes: Readonly<Record<string, (random: () => number, pause: number) => number>> = {
  "of equal size": () => 4 * 2 ** 20,
  "of any size": (random) => Math.floor(2 ** (random() * 30)),
  "that write nothing": () => 0,
  "that are mostly small": (random) => (random() < 0.01 ? 512 * 2 ** 20 : random() * 2 ** 20),
  "that shrink": (_random, pause) => Math.floor(2 ** 30 / (pause + 1)),
};

interface Life {
  readonly pausedBytes: number;
  readonly foldedBytes: number;
  readonly layersMax: number;
}

/** A sandbox that is paused again and again; `overlap` of what the smaller part holds is in both. */
function live(sizeOf: (pause: number) => number, overlap: () => number): Life {
  let layers: number[] = [];
  let pausedBytes = 0;
  let foldedBytes = 0;
  let layersMax = 0;
  for (let pause = 0; pause < pauses; pause += 1) {
    const bytes = emptyLayerBytes + sizeOf(pause);
    pausedBytes += bytes;
    layers.push(bytes);
    const plan = planFold(layers);
    if (plan !== undefined) {
      const folded = layers.slice(plan.first).reduce((sum, one) => {
        return sum + one - overlap() * Math.min(sum, one);
      });
      foldedBytes += folded;
      layers = [...layers.slice(0, plan.first), folded];
    }
    layersMax = Math.max(layersMax, layers.length);
    assert.ok(isTwofold(layers.slice(3)), layers.join(" "));
  }
  return { pausedBytes, foldedBytes, layersMax };
}

/** Each layer is more than twice as large as the next newer one. */
function isTwofold(layers: readonly number[]): boolean {
  return layers.every((bytes, index) => bytes > 2 * (layers[index + 1] ?? 0));
}

test("four layers and fewer are left alone", () => {
  assert.equal(planFold([]), undefined);
  assert.equal(planFold([1]), undefined);
  assert.equal(planFold([1, 1, 1, 1]), undefined);
});

test("the newest layers are folded up to one that is more than twice as large", () => {
  assert.deepEqual(planFold([1, 1, 1, 1, 1]), { first: 0 });
  assert.deepEqual(planFold([100, 1, 1, 1, 1]), { first: 1 });
  assert.deepEqual(planFold([8, 1, 1, 1, 1]), { first: 0 });
  assert.deepEqual(planFold([9, 1, 1, 1, 1]), { first: 1 });
  assert.deepEqual(planFold([0, 0, 0, 0, 0]), { first: 0 });
  assert.equal(planFold([81, 27, 9, 3, 1]), undefined);
  assert.deepEqual(planFold([81, 27, 9, 3, 100]), { first: 0 });
});

test("sizes that call for no fold still leave sixteen layers", () => {
  const threefold = Array.from({ length: 40 }, (_one, index) => 3 ** (40 - index));
  assert.equal(planFold(threefold.slice(0, 16)), undefined);
  assert.deepEqual(planFold(threefold.slice(0, 17)), { first: 15 });
  assert.deepEqual(planFold(threefold), { first: 15 });
});

for (const [name, sizeOf] of Object.entries(pauseSizes)) {
  test(`${pauses} pauses ${name} leave a short chain and write each byte a few times`, () => {
    for (const seed of seeds) {
      const random = seededRandom(seed);
      for (const overlap of [() => 0, () => 1, random]) {
        const life = live((pause) => sizeOf(random, pause), overlap);
        const doublings = Math.log2(life.pausedBytes / emptyLayerBytes);
        assert.ok(life.layersMax <= 16, `${life.layersMax} layers with seed ${seed}`);
        const rewrites = life.foldedBytes / life.pausedBytes;
        assert.ok(rewrites <= doublings, `${rewrites} > ${doublings} with seed ${seed}`);
      }
    }
  });
}
