/**
 * The id of the request that is being served, for every log line that is written on its behalf, however
 * deep. A client may choose it, and finds it in the answer.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { randomUUID } from "node:crypto";
import type { Logger } from "@torpor/std";

export const requestIdHeader = "x-request-id";
const idPattern = /^[A-Za-z0-9._-]{1,64}$/;

export interface RequestContext {
  readonly id: string;
  /** A timer that was set meanwhile is not on its behalf any more. */
  answered: boolean;
}

const storage = new AsyncLocalStorage<RequestContext>();

/** @param given What the client sent, if anything; what is no id is not taken over. */
export function newRequestContext(given: string | string[] | undefined): RequestContext {
  const id = typeof given === "string" && idPattern.test(given) ? given : randomUUID();
  return { id, answered: false };
}

export function runInRequest<T>(context: RequestContext, work: () => T): T {
  return storage.run(context, work);
}

/** A logger whose lines name the request that they are written for. */
export function withRequestId(log: Logger): Logger {
  const fields = (own: object = {}): Readonly<Record<string, unknown>> => {
    const context = storage.getStore();
    if (context === undefined || context.answered) return { ...own };
    return { requestId: context.id, ...own };
  };
  return {
    info: (message, own) => log.info(message, fields(own)),
    warn: (message, own) => log.warn(message, fields(own)),
    error: (message, own) => log.error(message, fields(own)),
    child: (own) => withRequestId(log.child(own)),
  };
}
