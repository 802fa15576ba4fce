/**
 * One TCP connection of a guest, carried to the outside: bytes both ways, each side as fast as the other
 * takes them, each side's end passed on by itself, and a reset for a reset. A connection that cannot be
 * made, is not allowed any more, or is silent for too long is reset, so that nobody waits for it.
 */
import type { Socket } from "node:net";

/** LIMITS */
const connectBudgetMs = 20_000;
const silenceMaxMs = 60 * 60_000;
/** Finds a far end that is gone without a word. */
const keepAliveMs = 60_000;

export class Relay implements Disposable {
  readonly #inside: Socket;
  readonly #outside: Socket;

  /** @param onEnd Called once, when nothing is left of it. */
  constructor(inside: Socket, outside: Socket, onEnd: () => void) {
    this.#inside = inside;
    this.#outside = outside;
    let open = 2;
    for (const socket of [inside, outside]) {
      socket.setNoDelay(true);
      socket.setKeepAlive(true, keepAliveMs);
      socket.on("error", () => this[Symbol.dispose]());
      socket.once("close", () => {
        open -= 1;
        if (open === 0) onEnd();
      });
    }
    outside.setTimeout(connectBudgetMs, () => this[Symbol.dispose]());
    outside.once("connect", () => {
      outside.setTimeout(silenceMaxMs);
      inside.pipe(outside);
      outside.pipe(inside);
    });
  }

  /** Resets both ends. */
  [Symbol.dispose](): void {
    this.#inside.resetAndDestroy();
    this.#outside.resetAndDestroy();
  }
}
