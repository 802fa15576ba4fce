/**
 * One TCP connection of a guest, carried to the outside: bytes flow both ways, each side as fast as
 * the other accepts them, each side's end of stream is passed on by itself, and a reset causes a
 * reset. A connection that cannot be made, is no longer allowed, or is silent for too long is
 * reset, so that nobody waits for it.
 */
import type { Socket } from "node:net";

/**
 * LIMIT: how long connecting may take (`connectBudgetMs`), and how long a connection may be silent.
 */
const connectBudgetMs = 20_000;
const silenceMaxMs = 60 * 60_000;
/** Detects a far end that vanished without closing. */
const keepAliveMs = 60_000;

/** Pipes one guest socket to one outside socket until both are closed. */
export class Relay implements Disposable {
  readonly #inside: Socket;
  readonly #outside: Socket;

  /** @param onEnd Called once, when both sockets are closed. */
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
