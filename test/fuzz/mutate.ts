/** Makes an input for a parser out of others: a few changes, decided by a seed. */
import type { Random } from "../model/random.ts";

/** LIMIT: of an input; what parsers hold is limited well below. */
const inputBytesMax = 1 << 16;
const changesMax = 4;
/** Deep enough to end the stack of whatever calls itself once a level. */
const deepLevels = 20_000;
/** Longer than any text that is taken. */
const longChars = 70_000;

const words = [
  ..."\0\n\r\t \"#%&'()*+,-./0123456789:;<=>?@[\\]^_`{|}~\x7f".split(""),
  "\r\n",
  "\r\n\r\n",
  "--",
  "..",
  "/../",
  "0x10",
  "1e3",
  "-1",
  "0.5",
  "4294967296",
  "9007199254740993",
  "99999999999999999999",
  "null",
  "true",
  "[]",
  "{}",
  "__proto__",
  "constructor",
  "é",
  "\u{1f600}",
  "\ud800",
  "%2e",
  "%zz",
  "*",
].map((word) => Buffer.from(word));
const bytes = [0x00, 0x01, 0x7f, 0x80, 0xff];
const numbers = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff];

type Change = (input: Buffer, random: Random, other: Buffer) => Buffer;

const changes: readonly Change[] = [
  (input, random) => patch(input, random, 1, (at) => input.readUInt8(at) ^ (1 << random.below(8))),
  (input, random) => patch(input, random, 1, () => pick(bytes, random)),
  (input, random) => patch(input, random, 1, () => random.below(256)),
  (input, random) => patch(input, random, 4, () => pick(numbers, random)),
  (input, random) => insert(input, random, pick(words, random)),
  (input, random) => insert(input, random, pick(words, random)),
  (input, random) => replace(input, random, pick(words, random)),
  (input, random) => replace(input, random, Buffer.alloc(0)),
  (input, random) => insert(input, random, slice(input, random)),
  (input, random) => insert(input, random, slice(inputOrWord(input, random), random)),
  (input, random) => input.subarray(0, random.below(input.length + 1)),
  (input, random, more) => Buffer.concat([input.subarray(0, random.below(input.length + 1)), more]),
  (input, random, more) => insert(input, random, slice(more, random)),
];

/** @param other Another input, to take a part of. */
export function mutateBytes(input: Buffer, other: Buffer, random: Random): Buffer {
  let changed = input;
  for (let left = 1 + random.below(changesMax); left > 0; left -= 1) {
    changed = pick(changes, random)(changed, random, other);
  }
  return changed.subarray(0, inputBytesMax);
}

const values: readonly unknown[] = [
  null,
  true,
  false,
  0,
  -0,
  -1,
  1,
  0.5,
  300,
  65_536,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  -(2 ** 53),
  1e300,
  "",
  "0",
  "a",
  "\0",
  "\n",
  "é",
  "\ud800",
  "__proto__",
  "constructor",
  "x".repeat(300),
  [],
  {},
  [null],
  [[]],
  { a: 1 },
];

/** JSON stays JSON: what is changed are values and fields. What is none is changed as bytes are. */
export function mutateJson(input: Buffer, other: Buffer, random: Random): Buffer {
  if (random.chance(1_000)) return Buffer.from(deepen(input.toString(), random));
  try {
    const holder = { value: JSON.parse(input.toString()) as unknown };
    const donor = JSON.parse(other.toString()) as unknown;
    for (let left = 1 + random.below(changesMax); left > 0; left -= 1) {
      changeSome(holder, donor, random);
    }
    return Buffer.from(JSON.stringify(holder.value));
  } catch {
    return mutateBytes(input, other, random);
  }
}

type Holder = Record<string, unknown>;

/** Goes down to some value and replaces or removes it, or adds one beside it. */
function changeSome(root: Holder, donor: unknown, random: Random): void {
  let holder = root;
  let key = "value";
  for (;;) {
    const value = holder[key];
    if (typeof value !== "object" || value === null || random.chance(4)) break;
    const keys = Object.keys(value);
    const next = keys[random.below(Math.max(1, keys.length))];
    if (next === undefined) break;
    holder = value as Holder;
    key = next;
  }
  const value = random.chance(1_000)
    ? "x".repeat(longChars)
    : random.chance(3)
      ? donor
      : pick(values, random);
  switch (random.below(4)) {
    case 0:
      if (holder !== root) delete holder[key];
      break;
    case 1:
      Object.defineProperty(holder, pick(["__proto__", "toString", "x", "", "0"], random), {
        value,
        enumerable: true,
        configurable: true,
        writable: true,
      });
      break;
    default:
      holder[key] = value;
  }
}

/** JSON.stringify cannot write what JSON.parse reads, so the text is put together. */
function deepen(text: string, random: Random): string {
  const [open, close] = pick(
    [
      ["[", "]"],
      ['{"a":', "}"],
    ] as const,
    random,
  );
  const deep = `${open.repeat(deepLevels)}0${close.repeat(deepLevels)}`;
  const scalars = [...text.matchAll(/(?<=[:[,])(?:"[^"\\]*"|-?\d+|null|true|false)(?=[,\]}])/g)];
  const target = scalars[random.below(Math.max(1, scalars.length))];
  if (target === undefined) return deep;
  return text.slice(0, target.index) + deep + text.slice(target.index + target[0].length);
}

function patch(
  input: Buffer,
  random: Random,
  length: 1 | 4,
  value: (at: number) => number,
): Buffer {
  if (input.length < length) return input;
  const changed = Buffer.from(input);
  const at = random.below(input.length - length + 1);
  if (length === 1) changed.writeUInt8(value(at), at);
  else if (random.chance(2)) changed.writeUInt32LE(value(at), at);
  else changed.writeUInt32BE(value(at), at);
  return changed;
}

function insert(input: Buffer, random: Random, piece: Buffer): Buffer {
  const at = random.below(input.length + 1);
  return Buffer.concat([input.subarray(0, at), piece, input.subarray(at)]);
}

function replace(input: Buffer, random: Random, piece: Buffer): Buffer {
  const at = random.below(input.length + 1);
  const end = at + random.below(Math.min(16, input.length - at) + 1);
  return Buffer.concat([input.subarray(0, at), piece, input.subarray(end)]);
}

function slice(input: Buffer, random: Random): Buffer {
  const at = random.below(input.length + 1);
  return input.subarray(at, at + random.below(Math.min(64, input.length - at) + 1));
}

function inputOrWord(input: Buffer, random: Random): Buffer {
  return random.chance(2) ? input : pick(words, random);
}

export function pick<T>(items: readonly T[], random: Random): T {
  const item = items[random.below(items.length)];
  if (item === undefined) throw new RangeError("nothing to pick from");
  return item;
}
