/**
 * Makes a script that fails shorter: turns, operations and mishaps are dropped one after the other for as
 * long as it still fails. What happens in the background is not the seed's, so each is tried twice.
 */
import type { Script, Turn } from "./script.ts";

const tries = 2;

/** @param fails Plays a script. @returns the shortest that was found until `untilMs` */
export async function shrink(
  script: Script,
  fails: (script: Script) => Promise<boolean>,
  untilMs: number,
): Promise<Script> {
  let best = script;
  for (let chunk = Math.ceil(best.turns.length / 2); chunk > 0; chunk = Math.floor(chunk / 2)) {
    for (let at = 0; at < best.turns.length && performance.now() < untilMs;) {
      const shorter = { ...best, turns: best.turns.toSpliced(at, chunk) };
      if (await failsSometimes(shorter, fails)) best = shorter;
      else at += chunk;
    }
  }
  for (const index of best.turns.keys()) {
    for (const turn of simpler(best.turns[index])) {
      if (performance.now() > untilMs) return best;
      const simple = { ...best, turns: best.turns.with(index, turn) };
      if (await failsSometimes(simple, fails)) best = simple;
    }
  }
  return best;
}

function simpler(turn: Turn | undefined): readonly Turn[] {
  if (turn === undefined) return [];
  const { operations } = turn;
  const fewer = operations.length < 2 ? [] : operations.map((_, at) => operations.toSpliced(at, 1));
  return [
    ...(turn.mishap === undefined ? [] : [{ operations }]),
    ...fewer.map((some) => ({ ...turn, operations: some })),
  ];
}

async function failsSometimes(
  script: Script,
  fails: (script: Script) => Promise<boolean>,
): Promise<boolean> {
  for (let time = 0; time < tries; time += 1) if (await fails(script)) return true;
  return false;
}
