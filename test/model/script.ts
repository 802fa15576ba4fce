/**
 * What a seed has happen, as plain data: turns, each of operations that begin together and of what goes
 * wrong meanwhile. Sandboxes and snapshots are meant by number, modulo how many there are by then, so
 * that a script still means something after some of its turns were dropped.
 */
import { assertNever } from "@torpor/std";
import { Random } from "./random.ts";

export interface Script {
  readonly seed: number;
  /** Whether memory is saved by the VMM's own means. */
  readonly saveWhole: boolean;
  readonly turns: readonly Turn[];
}

export interface Turn {
  readonly operations: readonly Operation[];
  /** What becomes of the daemon, in a turn that has no operations. */
  readonly daemon?: DaemonEvent | undefined;
  readonly mishap?: Mishap | undefined;
}

/** idle: what is done in the background is waited for. */
export type DaemonEvent = "idle" | "restart" | "crash" | "power cut";

export type Epoch = "none" | "right" | "stale";

/** What a cell becomes: something new, zeros, or what the template has there. */
export type Value = "new" | "zeros" | "image";

export interface Write {
  readonly memoryCell: number;
  readonly diskCell: number;
  readonly value: Value;
}

export type Targeted =
  | { readonly verb: "pause" | "resume" | "resume previous" | "remove"; readonly epoch: Epoch }
  | { readonly verb: "fork"; readonly count: number; readonly epoch: Epoch }
  | { readonly verb: "snapshot"; readonly name: string | null; readonly epoch: Epoch }
  | { readonly verb: "set timeout"; readonly timeoutMs: number | null }
  /** Its time is over, and it is paused or removed by whoever looks after that. */
  | { readonly verb: "expire" }
  | { readonly verb: "write"; readonly write: Write }
  | { readonly verb: "VM dies" };

/** Number 0 is the template, the others are snapshots. */
export type Sourced =
  | { readonly verb: "create"; readonly source: number; readonly onTimeout: "kill" | "pause" }
  | { readonly verb: "remove snapshot"; readonly source: number };

export type Operation = (Targeted & { readonly target: number }) | Sourced;

export interface Mishap {
  /**
   * crash: the daemon is gone. fail: a step fails. break: a call to the driver, the store or the database
   * fails, or its answer is lost. refuse: no record can be written until the turn is over. repeat: a step runs twice. death: the VM dies. scribble: the guest
   * writes. crash twice: the next daemon, too, while it settles what it found.
   */
  readonly kind:
    "crash" | "crash twice" | "fail" | "break" | "refuse" | "repeat" | "death" | "scribble";
  /** After so many points that the daemon passes. */
  readonly at: number;
  readonly write: Write;
}

export const memoryCells: readonly number[] = [1, 2, 3, 4, 64, 65, 66, 200, 254, 255];
export const diskCells: readonly number[] = [0, 1, 2, 3, 4, 5];
const turnsMin = 8;
const turnsMore = 18;
const operationsMax = 3;
/** More than a chain has before it is folded. */
const busySavesMin = 5;
const busySavesMore = 8;
/** More than there usually are, and divisible by many numbers. */
const targets = 12;
/** A pause passes some sixty points, a wake some seventy. */
const pointsPassed = 75;

export function makeScript(seed: number): Script {
  const random = new Random(seed);
  const saveWhole = random.chance(10);
  const count = turnsMin + random.below(turnsMore);
  const turns = Array.from({ length: count }, () => makeTurn(random));
  const ending = random.chance(2) ? makeBusyLife(random) : [];
  return { seed, saveWhole, turns: [{ operations: [create(0, "pause")] }, ...turns, ...ending] };
}

/** One sandbox is saved again and again while it runs, so that what its VM has open is folded. */
function makeBusyLife(random: Random): readonly Turn[] {
  const target = random.below(targets);
  const begin: Turn = { operations: [{ verb: "resume", target, epoch: "none" }] };
  const count = busySavesMin + random.below(busySavesMore);
  const saves = Array.from({ length: count }, (): readonly Turn[] => {
    const write: Operation = { verb: "write", target, write: makeWrite(random) };
    const save: Operation = { verb: "snapshot", target, name: null, epoch: "none" };
    return [
      { operations: [write] },
      // Two at once: the second is made while what the first has left is folded.
      { operations: random.chance(2) ? [save] : [save, save], mishap: maybeMishap(random) },
      ...(random.chance(2) ? [makeDaemonTurn(random)] : []),
    ];
  });
  return [begin, ...saves.flat()];
}

function makeTurn(random: Random): Turn {
  const kind = random.weighted({ operations: 60, write: 28, daemon: 12 });
  if (kind === "daemon") return makeDaemonTurn(random);
  if (kind === "write") return { operations: [makeWriting(random)] };
  const operations = [makeOperation(random)];
  while (operations.length < operationsMax && random.chance(4)) {
    operations.push(makeOperation(random));
  }
  return { operations, mishap: maybeMishap(random) };
}

function makeDaemonTurn(random: Random): Turn {
  const daemon = random.weighted({ idle: 5, restart: 3, crash: 3, "power cut": 1 });
  const mishap = daemon === "idle" ? maybeMishap(random) : undefined;
  return { operations: [], daemon, mishap };
}

/** In a turn of its own: the model could not tell on which side of another operation it was. */
function makeWriting(random: Random): Operation {
  return { verb: "write", target: random.below(targets), write: makeWrite(random) };
}

function makeOperation(random: Random): Operation {
  const verb = random.weighted({
    create: 6,
    pause: 13,
    resume: 15,
    "resume previous": 3,
    fork: 5,
    snapshot: 7,
    "remove snapshot": 3,
    remove: 3,
    "VM dies": 3,
    "set timeout": 1,
    expire: 1,
  });
  const target = random.below(targets);
  const epoch = (["none", "none", "none", "right", "stale"] as const)[random.below(5)] ?? "none";
  switch (verb) {
    case "pause":
    case "resume":
    case "resume previous":
    case "remove":
      return { verb, target, epoch };
    case "fork":
      return { verb, target, epoch, count: 1 + random.below(3) };
    case "snapshot":
      return { verb, target, epoch, name: [null, "one", "two"][random.below(3)] ?? null };
    case "set timeout":
      return { verb, target, timeoutMs: random.chance(2) ? null : 3_600_000 };
    case "expire":
    case "VM dies":
      return { verb, target };
    case "create":
      return create(random.chance(3) ? 0 : random.below(4), random.chance(2) ? "kill" : "pause");
    case "remove snapshot":
      return { verb, source: random.below(4) };
    default:
      return assertNever(verb);
  }
}

function create(source: number, onTimeout: "kill" | "pause"): Operation {
  return { verb: "create", source, onTimeout };
}

function makeWrite(random: Random): Write {
  return {
    memoryCell: random.below(memoryCells.length),
    diskCell: random.below(diskCells.length),
    value: random.weighted({ new: 4, zeros: 2, image: 1 }),
  };
}

function maybeMishap(random: Random): Mishap | undefined {
  if (!random.chance(3)) return undefined;
  const kind = random.weighted({
    crash: 6,
    "crash twice": 1,
    fail: 5,
    break: 5,
    refuse: 3,
    repeat: 4,
    death: 3,
    scribble: 3,
  });
  return { kind, at: random.below(pointsPassed), write: makeWrite(random) };
}
