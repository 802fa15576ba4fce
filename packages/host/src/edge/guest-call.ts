/** One request to a guest's server and its answer, whatever the protocol between them. */
import type { Duplex } from "node:stream";
import type { AnswerHead } from "./answer-parser.ts";
import type { Framing } from "./framing.ts";
import type { Fields } from "./http-syntax.ts";

export interface GuestRequest {
  readonly method: string;
  /** Path and query. */
  readonly path: string;
  /** Names and values in turn, framing included. */
  readonly fields: readonly string[];
  readonly framing: Framing;
  /** Whether the guest may change protocols. */
  readonly mayUpgrade: boolean;
}

/**
 * What becomes of a call, in this order: interim answers, a head, its body, its end. `onFailed` comes once
 * in place of the rest. Nothing comes after the end, a failure, an upgrade, or `destroy`.
 */
export interface CallEvents {
  onInterim(head: AnswerHead): void;
  /** @param isWhole There is no body, and no trailers. */
  onHead(head: AnswerHead, isWhole: boolean): void;
  onBody(bytes: Buffer): void;
  onEnd(trailers: Fields): void;
  /** The connection is the receiver's from now on. @param first What the guest has sent behind its head. */
  onUpgraded(head: AnswerHead, socket: Duplex, first: Buffer): void;
  /** More of the request's body may be written. */
  onDrain(): void;
  /** @param isStale A kept connection failed before any byte of an answer came. */
  onFailed(cause: unknown, isStale: boolean): void;
}

export interface GuestCall {
  /** Sends a part of the request's body. @returns false when the next should wait for `onDrain` */
  write(bytes: Buffer): boolean;
  /** The request's body is complete. */
  end(): void;
  /** Lets the guest wait with its answer's body. */
  pause(): void;
  resume(): void;
  /** Gives up, and says nothing more. Safe to repeat, and after the end. */
  destroy(): void;
}
