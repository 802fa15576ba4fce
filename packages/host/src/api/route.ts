/**
 * One operation of the API: where it is, what the OpenAPI document says of it, and what it does. A
 * handler parses the request, calls the daemon and returns an answer; it knows nothing of sockets.
 */
import type { IncomingHttpHeaders } from "node:http";
import { type StepTiming, parseIntegerText } from "@torpor/std";
import type { KeyedRequest } from "../records/idempotency-records.ts";
import type { Command } from "../sandbox/command.ts";
import type { SchemaName } from "./openapi/schemas.ts";

/** Names the run that a request is meant for. */
export const epochHeader = "torpor-epoch";

export type Method = "GET" | "POST" | "PUT" | "PATCH" | "DELETE";

/** Who may call it, beside the owner of the Unix socket. */
export type Access =
  /** Anybody. */
  | "open"
  /** Who has an API key or an access token. */
  | "team"
  /** Who has an access token: it is about keys. */
  | "token";

export interface ApiRequest {
  readonly params: Readonly<Record<string, string>>;
  readonly query: Readonly<Record<string, string | readonly string[]>>;
  /** What the JSON says; undefined when there was no body. */
  readonly body: unknown;
  readonly headers: IncomingHttpHeaders;
  /** Of a request with an `Idempotency-Key`, where the route asks for one. */
  readonly keyed: KeyedRequest | undefined;
}

export interface ApiAnswer {
  readonly status: number;
  /** JSON; nothing when undefined. */
  readonly body?: unknown;
  readonly headers?: Readonly<Record<string, string>>;
  readonly timings?: readonly StepTiming[];
}

/** What a request does that is sent again; undefined where it changes nothing by nature. */
export type OnRepeat =
  /** Makes more, unless it has an `Idempotency-Key`. */
  | "asKeyed"
  /** Makes more, and no key is taken. */
  | "again";

export interface QueryParameter {
  readonly type: "string" | "integer";
  readonly description: string;
}

export interface Route {
  readonly method: Method;
  /** Parts in braces vary: `/sandboxes/{sandboxID}`. */
  readonly path: string;
  readonly access: Access;
  readonly tag: string;
  readonly summary: string;
  readonly query?: Readonly<Record<string, QueryParameter>>;
  readonly body?: { readonly schema: SchemaName; readonly required: boolean };
  readonly onRepeat?: OnRepeat;
  /** By status; null for an empty body. Errors that every route may answer are not named. */
  readonly answers: Readonly<Record<number, AnswerSchema | null>>;
  readonly handle: (request: ApiRequest) => Promise<ApiAnswer> | ApiAnswer;
}

export type AnswerSchema = SchemaName | { readonly listOf: SchemaName };

/** @throws argument.invalid when the header is there and no number */
export function commandOf({ headers }: ApiRequest): Command {
  const epoch = headers[epochHeader];
  if (epoch === undefined) return {};
  return { epoch: parseIntegerText(epoch, "Torpor-Epoch", 0, Number.MAX_SAFE_INTEGER) };
}

export const noContent: ApiAnswer = { status: 204 };
