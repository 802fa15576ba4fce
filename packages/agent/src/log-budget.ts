/**
 * The memory that the output logs of all processes may take together. It is guest memory, and part
 * of every snapshot.
 *
 * When it is used up, the log that holds most loses its oldest output: a process that prints much
 * loses its own output, not that of processes that print little.
 */

/** A log that takes part in the budget. */
export interface BudgetedLog {
  readonly heldBytes: number;
  /** Discards its oldest piece, and reports that by `change`. */
  dropOldest(): void;
}

/** Bounds the bytes that all logs hold together. */
export class LogBudget {
  readonly #bytesMax: number;
  /** SNAPSHOT: logs of processes that are in the same snapshot. */
  readonly #logs = new Set<BudgetedLog>();
  #heldBytes = 0;

  constructor(bytesMax: number) {
    this.#bytesMax = bytesMax;
  }

  /**
   * A log reports by how many bytes it has grown or shrunk. The budget forgets a log that holds
   * nothing.
   */
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
