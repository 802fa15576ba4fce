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

/** A row that must not fall below a bound. */
export function atLeast(row: string, value: number, unit: string, bound: number): Row {
  return { row, value, unit, bound: `at least ${bound}`, holds: value >= bound };
}

/** A row that must not exceed a bound. */
export function atMost(row: string, value: number, unit: string, bound: number): Row {
  return { row, value, unit, bound: `at most ${bound}`, holds: value <= bound };
}

/** The median; of an even number of values, the upper middle. */
export function median(values: readonly number[]): number {
  return quantile(values, 0.5);
}

/** The value at this share of the sorted values; for a large share of few values, the largest. */
export function quantile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((a, b) => a - b);
  const index = Math.min(Math.floor(sorted.length * share), sorted.length - 1);
  return sorted[index] ?? Number.NaN;
}
