/** One request to a guest's server and its answer, in either protocol. */
import type { Duplex } from "node:stream";
import type { AnswerHead } from "./answer-parser.ts";
import type { Framing } from "./framing.ts";
import type { Fields } from "./http-syntax.ts";

/** A request to a guest's HTTP/1 server. */
export interface GuestRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  /** Names and values alternate; includes the fields that frame the body. */
  readonly fields: readonly string[];
  readonly framing: Framing;
  /** Whether the guest may change to another protocol. */
  readonly mayUpgrade: boolean;
}

/**
 * The events of a call, in this order: interim answers, a head, its body, its end. `onFailed` is
 * called once in place of the rest. Nothing is called after the end, a failure, an upgrade, or
 * `destroy`.
 */
export interface CallEvents {
  onInterim(head: AnswerHead): void;
  /** @param isWhole The answer has no body and no trailers. */
  onHead(head: AnswerHead, isWhole: boolean): void;
  onBody(bytes: Buffer): void;
  onEnd(trailers: Fields): void;
  /**
   * The receiver owns the connection from now on.
   * @param first Bytes the guest sent after its head.
   */
  onUpgraded(head: AnswerHead, socket: Duplex, first: Buffer): void;
  /** More of the request's body may be written. */
  onDrain(): void;
  /** @param isStale A reused connection failed before any byte of an answer arrived. */
  onFailed(cause: unknown, isStale: boolean): void;
}

/** A call in progress, as its sender controls it. */
export interface GuestCall {
  /**
   * Sends a part of the request's body.
   * @returns false when the next part should wait for `onDrain`
   */
  write(bytes: Buffer): boolean;
  /** Ends the request's body. */
  end(): void;
  /** Stops reading the answer's body, until `resume`. */
  pause(): void;
  resume(): void;
  /** Abandons the call; no more events follow. Safe to repeat, and after the end. */
  destroy(): void;
}
