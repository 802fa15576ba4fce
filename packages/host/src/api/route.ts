/**
 * One operation of the API: its path, its description in the OpenAPI document, and its handler. A
 * handler parses the request, calls the daemon and returns an answer; it knows nothing of sockets.
 */
import type { IncomingHttpHeaders } from "node:http";
import { type StepTiming, parseIntegerText } from "@torpor/std";
import type { KeyedRequest } from "../records/idempotency-records.ts";
import type { Command } from "../sandbox/command.ts";
import type { SchemaName } from "./openapi/schemas.ts";

/** Request header that names the run a request is meant for, by its epoch. */
export const epochHeader = "torpor-epoch";

/** The HTTP methods of the API. */
export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** The credentials a caller needs, unless it is the owner on the Unix socket. */
export type Access =
  /** None. */
  | "open"
  /** An API key or an access token. */
  | "team"
  /** An access token: the route is about keys. */
  | "token";

/** A request as handlers see it. */
export interface ApiRequest {
  readonly params: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string | readonly string[]>>;
  /** The parsed JSON; undefined when there was no body. */
  readonly body: unknown;
  readonly headers: IncomingHttpHeaders;
  /** Set if the request has an `Idempotency-Key` and its route uses one. */
  readonly keyed: KeyedRequest | undefined;
}

/** An answer as handlers return it. */
export interface ApiAnswer {
  readonly status: number;
  /** Sent as JSON; undefined: an empty body. */
  readonly body?: unknown;
  /** Additional headers. */
  readonly headers?: Readonly<Record<string, string>>;
  readonly timings?: readonly StepTiming[];
}

/** The effect of a repeated request; undefined where a repeat changes nothing by nature. */
export type OnRepeat =
  /** It creates again, unless it has an `Idempotency-Key`. */
  | "asKeyed"
  /** It creates again, and a key is refused. */
  | "again";

/** A query parameter, as the OpenAPI document lists it. */
export interface QueryParameter {
  readonly type: "string" | "integer";
  readonly description: string;
}

/** One operation of the API. */
export interface Route {
  readonly method: Method;
  /** Parts in braces are parameters: `/sandboxes/{sandboxID}`. */
  readonly path: string;
  readonly access: Access;
  readonly tag: string;
  readonly summary: string;
  readonly query?: Readonly<Record<string, QueryParameter>>;
  readonly body?: { readonly schema: SchemaName; readonly required: boolean };
  readonly onRepeat?: OnRepeat;
  /**
   * Schemas by status; null for an empty body. Errors that every route may answer are not listed.
   */
  readonly answers: Readonly<Record<number, AnswerSchema | null>>;
  readonly handle: (request: ApiRequest) => Promise<ApiAnswer> | ApiAnswer;
}

/** The schema of an answer's body. */
export type AnswerSchema = SchemaName | { readonly listOf: SchemaName };

/**
 * The options that every command of a sandbox takes, from the request's headers.
 * @throws argument.invalid when the epoch is not a number
 */
export function commandOf({ headers }: ApiRequest): Command {
  const epoch = headers[epochHeader];
  if (epoch === undefined) return {};
  return { epoch: parseIntegerText(epoch, "Torpor-Epoch", 0, Number.MAX_SAFE_INTEGER) };
}

/** The answer 204, without a body. */
export const noContent: ApiAnswer = { status: 204 };
