/**
 * The memory that the output logs of all processes may take together. It is guest memory, and part of
 * every snapshot.
 *
 * When it is used up, the log that holds most loses its oldest output: one that prints much costs
 * itself, not those that print little.
 */
export interface BudgetedLog {
  readonly heldBytes: number;
  /** Gives up its oldest piece. */
  dropOldest(): void;
}

export class LogBudget {
  readonly #bytesMax: number;
  /** SNAPSHOT: of processes that are in the same snapshot. */
  readonly #logs = new Set<BudgetedLog>();
  #heldBytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /** A log says by how much it has grown or shrunk. It is forgotten when it holds nothing. */
  change(log: BudgetedLog, bytes: number): void {
    this.#heldBytes += bytes;
    if (log.heldBytes === 0) this.#logs.delete(log);
    else this.#logs.add(log);
    while (this.#heldBytes > this.#bytesMax) {
      let largest = log;
      for (const other of this.#logs) if (other.heldBytes > largest.heldBytes) largest = other;
      largest.dropOldest();
    }
  }
}
