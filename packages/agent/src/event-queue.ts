/**
 * What one client has still to read of a stream of events: bounded, filled by one owner, emptied by
 * one RPC.
 *
 * The owner decides what to do about a queue that fills up; the queue only counts. Ending it is
 * final: a graceful end comes after everything queued, a cut throws the rest away.
 */
import { ConnectError } from "@connectrpc/connect";

export interface EventQueueOptions {
  /** Called whenever the client has taken something. */
  readonly onTaken?: (() => void) | undefined;
}

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

  get queuedBytes(): number {
    return this.#queuedBytes;
  }

  get isEmpty(): boolean {
    return this.#events.length === 0;
  }

  get ended(): boolean {
    return this.#ended;
  }

  /** `bytes` is what the event counts for. Does nothing after the end. */
  push(event: Event, bytes: number): void {
    if (this.#ended) return;
    this.#events.push({ event, bytes });
    this.#queuedBytes += bytes;
    this.#wake?.();
  }

  /** Ends the stream after what is queued, with an error if one is given. The first end counts. */
  end(error?: ConnectError): void {
    if (this.#ended) return;
    this.#ended = true;
    this.#error = error;
    this.#wake?.();
  }

  /** Ends the stream now; what is queued is lost. */
  cut(error?: ConnectError): void {
    this.drain();
    this.end(error);
  }

  /** Takes everything that is queued. */
  drain(): Event[] {
    this.#queuedBytes = 0;
    return this.#events.splice(0).map(({ event }) => event);
  }

  /** Yields until the end, or until `signal` aborts. @throws the ConnectError of the end. */
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
