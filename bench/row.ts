/** One measured number, with the promise it is held to, if any. */
export interface Row {
  /** Name of the row in SPEC.md. */
  readonly row: string;
  readonly value: number;
  readonly unit: string;
  /** The promise in words, such as "at least 20". */
  readonly bound?: string;
  readonly holds?: boolean;
}

export function atLeast(row: string, value: number, unit: string, bound: number): Row {
  return { row, value, unit, bound: `at least ${bound}`, holds: value >= bound };
}

export function atMost(row: string, value: number, unit: string, bound: number): Row {
  return { row, value, unit, bound: `at most ${bound}`, holds: value <= bound };
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)] ?? Number.NaN;
}
