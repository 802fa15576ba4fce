/**
 * The headers by which a client shapes a stream.
 *
 * `Connect-Timeout-Ms` is removed from the request before the RPC library sees it: the library
 * would set a timer of its own, which no snapshot can suspend, and for a command the header does
 * not mean the end of a call (see process-service.ts).
 */
import type { IncomingHttpHeaders } from "node:http";
import { Code, ConnectError, createContextKey } from "@connectrpc/connect";
import { outputOffsetHeader } from "@torpor/protocol";
import type { EventQueue } from "./event-queue.ts";
import type { OutputKind, OutputOffsets } from "./output-log.ts";
import type { QuietTimers } from "./quiet-timers.ts";

const timeoutHeader = "connect-timeout-ms";
const keepaliveHeader = "keepalive-ping-interval";
const keepaliveSecondsDefault = 90;

/** Context key of the raw value of the timeout header. */
export const timeoutKey = createContextKey<string | undefined>(undefined);

/** Removes the timeout header from a request and returns its raw value. */
export function takeTimeoutHeader(headers: IncomingHttpHeaders): string | undefined {
  const value = headers[timeoutHeader];
  delete headers[timeoutHeader];
  return typeof value === "string" ? value : undefined;
}

/**
 * Parses the raw value. Undefined means no limit; so does 0.
 * @throws ConnectError invalid_argument
 */
export function parseTimeoutMs(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (!/^\s*\d{1,10}\s*$/.test(value)) {
    throw new ConnectError(`invalid ${timeoutHeader}: '${value}'`, Code.InvalidArgument);
  }
  return Number(value) || undefined;
}

/**
 * Milliseconds of silence after which a keepalive is due; an unreadable header means the default.
 */
export function keepaliveMs(headers: Headers): number {
  const value = headers.get(keepaliveHeader) ?? "";
  const seconds = /^\d{1,6}$/.test(value) ? Number(value) : 0;
  return (seconds || keepaliveSecondsDefault) * 1000;
}

/**
 * The offset from which a client wants each stream of `kinds`; undefined if it sends no header.
 * @throws ConnectError invalid_argument
 */
export function parseOutputOffsets(
  headers: Headers,
  kinds: readonly OutputKind[],
): OutputOffsets | undefined {
  const value = headers.get(outputOffsetHeader);
  if (value === null) return undefined;
  const offsets = value.split(",").map((part) => part.trim());
  if (offsets.length !== kinds.length || !offsets.every((part) => /^\d{1,15}$/.test(part))) {
    throw new ConnectError(
      `${outputOffsetHeader} must be an offset for each of ${kinds.join(", ")}: '${value}'`,
      Code.InvalidArgument,
    );
  }
  return new Map(kinds.map((kind, index) => [kind, Number(offsets[index])]));
}

/** Writes offsets as the value of the header. */
export function formatOutputOffsets(offsets: OutputOffsets): string {
  return [...offsets.values()].join(",");
}

/** How to read one stream for one client. */
export interface StreamOptions<Event> {
  readonly signal: AbortSignal;
  readonly timers: QuietTimers;
  readonly keepaliveMs: number;
  readonly keepalive: Event;
  /** Ends the stream, not the process or watch behind it. */
  readonly timeoutMs?: number | undefined;
}

/**
 * Reads a queue to its end, adds a keepalive to every silence, and ends the stream at its timeout.
 * @throws the ConnectError of the end
 */
export async function* readStream<Event>(
  queue: EventQueue<Event>,
  options: StreamOptions<Event>,
): AsyncGenerator<Event, void, undefined> {
  const { timers, timeoutMs } = options;
  const keepalive = timers.after(options.keepaliveMs, () => {
    // A client with something left to read is not waiting for a sign of life.
    if (queue.isEmpty) queue.push(options.keepalive, 1);
    else keepalive.restart();
  });
  const timeout =
    timeoutMs === undefined
      ? undefined
      : timers.after(timeoutMs, () => {
          queue.end(new ConnectError("the stream reached its timeout", Code.DeadlineExceeded));
        });
  try {
    for await (const event of queue.read(options.signal)) {
      keepalive.restart();
      yield event;
    }
  } finally {
    keepalive.cancel();
    timeout?.cancel();
  }
}
