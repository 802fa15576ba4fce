/**
 * The headers by which a client shapes a stream.
 *
 * `Connect-Timeout-Ms` is taken out of the request before the RPC library sees it: the library would
 * set a timer of its own, which no snapshot can suspend, and for a command the header means something
 * else than the end of a call (see process-service.ts).
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

/** The raw value of the timeout header. */
export const timeoutKey = createContextKey<string | undefined>(undefined);

export function takeTimeoutHeader(headers: IncomingHttpHeaders): string | undefined {
  const value = headers[timeoutHeader];
  delete headers[timeoutHeader];
  return typeof value === "string" ? value : undefined;
}

/** Undefined means no limit, as do an absent header and 0. @throws ConnectError invalid_argument */
export function parseTimeoutMs(value: string | undefined): number | undefined {
  if (value === undefined) return undefined;
  if (!/^\s*\d{1,10}\s*$/.test(value)) {
    throw new ConnectError(`invalid ${timeoutHeader}: '${value}'`, Code.InvalidArgument);
  }
  return Number(value) || undefined;
}

/** Milliseconds of silence after which a keepalive is due; anything unreadable means the default. */
export function keepaliveMs(headers: Headers): number {
  const value = headers.get(keepaliveHeader) ?? "";
  const seconds = /^\d{1,6}$/.test(value) ? Number(value) : 0;
  return (seconds || keepaliveSecondsDefault) * 1000;
}

/**
 * Where a client wants to go on in each of `kinds`; undefined when it does not say.
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

export function formatOutputOffsets(offsets: OutputOffsets): string {
  return [...offsets.values()].join(",");
}

export interface StreamOptions<Event> {
  readonly signal: AbortSignal;
  readonly timers: QuietTimers;
  readonly keepaliveMs: number;
  readonly keepalive: Event;
  /** Ends the stream, not what it is about. */
  readonly timeoutMs?: number | undefined;
}

/** Reads a queue to its end, with a keepalive in every silence and a limit on the whole. */
export async function* readStream<Event>(
  queue: EventQueue<Event>,
  options: StreamOptions<Event>,
): AsyncGenerator<Event, void, undefined> {
  const { timers, timeoutMs } = options;
  const keepalive = timers.after(options.keepaliveMs, () => {
    // A client with something left to read is not waiting to hear from us.
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
