/**
 * Closes sockets: for the process at once, in the kernel a slice of them in each turn of the event loop.
 *
 * Nearly all of the time that closing takes goes into system calls: those for ten thousand sockets hold
 * up a process for a second. So a socket handed to `defer` reads nothing more, and once destroyed it
 * serves nothing and takes nothing to write, as any that is closed; but the kernel hears of it in a later
 * turn when this one has closed a slice already, and the socket emits "close" after that.
 *
 * How it is closed decides about data that the peer has not acknowledged. After a `close` the kernel
 * sends it again and again, for minutes when the peer is gone. After a `reset` it forgets it.
 *
 * Node does not document the handle below a socket. A stream that has none, or one of another kind, is
 * closed by its own `destroy`, at once and in one piece.
 */
import type { Socket } from "node:net";

export type Manner = "close" | "reset";

/** LIMIT: a few milliseconds of system calls, and some ten of them in a guest that is emulated. */
const sliceSockets = 128;

/** What this file uses of a handle. Only TCP has `reset`. */
interface Handle {
  readStop(): unknown;
  close(onClosed?: () => void): void;
  reset?(onClosed?: () => void): unknown;
}

interface Waiting {
  readonly handle: Handle;
  readonly onClosed: (() => void) | undefined;
}

export class Closings {
  readonly #manners = new WeakMap<Handle, Manner>();
  /** Their own end is being sent. Node refuses to reset them, and then cannot close them either. */
  readonly #ending = new WeakSet<Handle>();
  readonly #waiting = new Set<Waiting>();
  readonly #onSettled: (() => void)[] = [];
  #leftInTurn = sliceSockets;
  #hasNextTurn = false;

  /**
   * `accepted` is the socket below any TLS, `upper` the one that carries the data. A manner given before
   * is replaced.
   */
  defer(accepted: Socket, upper: Socket, manner: Manner): void {
    const { _handle: handle } = accepted as { _handle?: unknown };
    if (!isHandle(handle)) return;
    if (upper.writableEnded && !upper.writableFinished) this.#ending.add(handle);
    const isKnown = this.#manners.has(handle);
    this.#manners.set(handle, manner);
    if (isKnown) return;
    handle.readStop();
    const close = handle.close.bind(handle);
    handle.close = (onClosed) => {
      handle.close = close;
      this.#take({ handle, onClosed });
    };
  }

  /** Sockets that wait for a later turn are reset in it. */
  resetWaiting(): void {
    for (const { handle } of this.#waiting) this.#manners.set(handle, "reset");
  }

  /** Resolves when the kernel has closed every socket that the process has. */
  async settled(): Promise<void> {
    if (this.#waiting.size > 0) await new Promise<void>((done) => this.#onSettled.push(done));
  }

  #take(waiting: Waiting): void {
    if (this.#leftInTurn > 0) this.#closeInKernel(waiting);
    else this.#waiting.add(waiting);
    this.#continueNextTurn();
  }

  #continueNextTurn(): void {
    if (!this.#hasNextTurn) setImmediate(() => this.#closeSlice());
    this.#hasNextTurn = true;
  }

  #closeSlice(): void {
    this.#leftInTurn = sliceSockets;
    this.#hasNextTurn = false;
    for (const waiting of this.#waiting) {
      if (this.#leftInTurn === 0) break;
      this.#waiting.delete(waiting);
      this.#closeInKernel(waiting);
    }
    if (this.#waiting.size > 0) this.#continueNextTurn();
    else for (const done of this.#onSettled.splice(0)) done();
  }

  #closeInKernel({ handle, onClosed }: Waiting): void {
    this.#leftInTurn -= 1;
    const isReset = this.#manners.get(handle) === "reset" && !this.#ending.has(handle);
    if (isReset && handle.reset !== undefined) handle.reset(onClosed);
    else handle.close(onClosed);
  }
}

function isHandle(handle: unknown): handle is Handle {
  if (typeof handle !== "object" || handle === null) return false;
  const { readStop, close } = handle as Partial<Record<keyof Handle, unknown>>;
  return typeof readStop === "function" && typeof close === "function";
}
