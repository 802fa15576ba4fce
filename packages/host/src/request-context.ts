/**
 * The id of the request that is being served, for every log line that is written on its behalf, at
 * any depth. A client may choose it, and finds it in the response.
 */
import { AsyncLocalStorage } from "node:async_hooks";
import { randomUUID } from "node:crypto";
import type { Logger } from "@torpor/std";

/** Header of the request's id, in requests and responses. */
export const requestIdHeader = "x-request-id";
const idPattern = /^[A-Za-z0-9._-]{1,64}$/;

/** The request that is being served. */
export interface RequestContext {
  readonly id: string;
  /**
   * Set once the response is sent: timers that were set on the way no longer log on the request's
   * behalf.
   */
  answered: boolean;
}

const storage = new AsyncLocalStorage<RequestContext>();

/**
 * A context for a new request.
 * @param given The client's header, if any; anything that is not a valid id is replaced by a random
 *   one.
 */
export function newRequestContext(given: string | string[] | undefined): RequestContext {
  const id = typeof given === "string" && idPattern.test(given) ? given : randomUUID();
  return { id, answered: false };
}

/** Runs `work`, and everything asynchronous that it starts, in the context of the request. */
export function runInRequest<T>(context: RequestContext, work: () => T): T {
  return storage.run(context, work);
}

/** Wraps a logger so that its lines name the request that they are written for. */
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
