/**
 * The events of a stream that one client has not read yet: bounded, filled by one owner, emptied by
 * one RPC.
 *
 * The owner decides what to do about a queue that fills up; the queue only counts. Its end is
 * final: a graceful end comes after everything queued, a cut discards the rest.
 */
import { ConnectError } from "@connectrpc/connect";

/** Callbacks to the owner of a queue. */
export interface EventQueueOptions {
  /** Called whenever the client has taken an event. */
  readonly onTaken?: (() => void) | undefined;
}

/** A queue of events between one owner and one reader. */
export class EventQueue<Event> {
  readonly #events: { readonly event: Event; readonly bytes: number }[] = [];
  readonly #onTaken: (() => void) | undefined;
  #queuedBytes = 0;
  #ended = false;
  #error: ConnectError | undefined;
  #wake: (() => void) | undefined;

  constructor(options: EventQueueOptions = {}) {
    this.#onTaken = options.onTaken;
  }

  /** The sum of the `bytes` of all queued events. */
  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get isEmpty(): boolean {
    return this.#events.length === 0;
  }

  /** Whether the queue takes no more events; some may still be queued. */
  get ended(): boolean {
    return this.#ended;
  }

  /** Adds an event that counts as `bytes`. Does nothing after the end. */
  push(event: Event, bytes: number): void {
    if (this.#ended) return;
    this.#events.push({ event, bytes });
    this.#queuedBytes += bytes;
    this.#wake?.();
  }

  /**
   * Ends the stream after the queued events, with `error` if one is given. Only the first end
   * counts.
   */
  end(error?: ConnectError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake?.();
  }

  /** Ends the stream now and discards the queued events. */
  cut(error?: ConnectError): void {
    this.drain();
    this.end(error);
  }

  /** Takes all queued events at once. */
  drain(): Event[] {
    this.#queuedBytes = 0;
    return this.#events.splice(0).map(({ event }) => event);
  }

  /**
   * Yields events until the end, or until `signal` aborts. Leaving it cuts the queue.
   * @throws the ConnectError of the end.
   */
  async *read(signal: AbortSignal): AsyncGenerator<Event, void, undefined> {
    const onAbort = (): void => this.cut();
    signal.addEventListener("abort", onAbort, { once: true });
    if (signal.aborted) onAbort();
    try {
      for (;;) {
        const next = this.#events.shift();
        if (next !== undefined) {
          this.#queuedBytes -= next.bytes;
          this.#onTaken?.();
          yield next.event;
        } else if (this.#ended) {
          if (this.#error !== undefined) throw this.#error;
          return;
        } else {
          const { promise, resolve } = Promise.withResolvers<void>();
          this.#wake = resolve;
          await promise;
          this.#wake = undefined;
        }
      }
    } finally {
      signal.removeEventListener("abort", onAbort);
      this.cut();
    }
  }
}
