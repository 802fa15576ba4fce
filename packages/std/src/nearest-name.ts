/** Finds which known name a user probably meant by an unknown one. */

/** LIMIT: more edits than a third of a name's characters make it another name. */
const charsPerEdit = 3;

/** The name nearest to `wanted`. @returns undefined when nothing is near. */
export function nearestName(wanted: string, names: readonly string[]): string | undefined {
  const [nearest] = nearestNames(wanted, names);
  return nearest;
}

/** The near names, nearest first. A name that begins with the other counts as one edit away. */
export function nearestNames(wanted: string, names: readonly string[]): readonly string[] {
  if (wanted === "") return [];
  return names
    .map((name) => ({ name, edits: distance(wanted, name) }))
    .filter(({ name, edits }) => edits <= Math.max(1, Math.floor(name.length / charsPerEdit)))
    .sort((one, other) => one.edits - other.edits)
    .map(({ name }) => name);
}

function distance(wanted: string, name: string): number {
  return name.startsWith(wanted) || wanted.startsWith(name) ? 1 : countEdits(wanted, name);
}

/**
 * Counts the characters to insert, remove, replace, or swap with their neighbour ("optimal string
 * alignment").
 */
export function countEdits(from: string, to: string): number {
  const [before, after] = [Array.from(from), Array.from(to)];
  const rows = [Array.from({ length: after.length + 1 }, (_, column) => column)];
  const at = (row: number, column: number): number => rows[row]?.[column] ?? 0;
  for (let row = 1; row <= before.length; row += 1) {
    const costs = [row];
    rows.push(costs);
    for (let column = 1; column <= after.length; column += 1) {
      const isSame = before[row - 1] === after[column - 1];
      const replaced = at(row - 1, column - 1) + (isSame ? 0 : 1);
      const isSwapped =
        before[row - 1] === after[column - 2] && before[row - 2] === after[column - 1];
      const swapped = row > 1 && column > 1 && isSwapped ? at(row - 2, column - 2) + 1 : Infinity;
      costs.push(Math.min(replaced, swapped, at(row - 1, column) + 1, at(row, column - 1) + 1));
    }
  }
  return at(before.length, after.length);
}
