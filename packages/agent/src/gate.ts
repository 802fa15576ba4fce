/**
 * Whether the agent takes new work. The gate is closed while a snapshot may be taken, and after a
 * restore until the host has made the guest right again.
 *
 * INVARIANT: nothing is spawned while it is closed. A process spawned into a frozen cgroup would
 * hang its caller, so every spawn checks the gate in the same turn of the event loop.
 */
import { Code, ConnectError } from "@connectrpc/connect";

/** The agent's one switch for new work: open, or closed around a snapshot. */
export class Gate {
  /** SNAPSHOT: closed in every snapshot; `init` or `cancel` opens it. */
  #open = true;

  get isOpen(): boolean {
    return this.#open;
  }

  close(): void {
    this.#open = false;
  }

  open(): void {
    this.#open = true;
  }

  /** @throws ConnectError unavailable while closed. */
  check(): void {
    if (!this.#open) {
      throw new ConnectError("the sandbox is being paused or resumed; try again", Code.Unavailable);
    }
  }
}
