/**
 * The body of a request: the daemon reads all of it before any work begins, within limits of time
 * and size.
 *
 * The errors here say "effect: none", and that is true because only this module reports them: once
 * the body is complete, no limit of the listener interrupts the work.
 */
import { isUtf8 } from "node:buffer";
import type { IncomingMessage } from "node:http";
import { TorporError, parseJson } from "@torpor/std";

/** LIMIT: the same as on the E2B wire. */
const bodyBytesMax = 16 * 1024 * 1024;

/**
 * Reads and parses a body; undefined if it is empty.
 * @throws request.slow, request.tooLarge, argument.invalid
 */
export async function readBody(request: IncomingMessage, bodyMs: number): Promise<unknown> {
  const bytes = await readBytes(request, bodyMs);
  return bytes.length === 0 ? undefined : parseJson(decode(bytes), "the body");
}

function readBytes(request: IncomingMessage, bodyMs: number): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  let total = 0;
  const stop = (): void => {
    clearTimeout(timer);
    request.off("data", take).off("end", finish).off("error", fail).off("close", fail);
  };
  const refuse = (error: TorporError): void => {
    stop();
    reject(error);
  };
  const take = (chunk: Buffer): void => {
    total += chunk.length;
    if (total <= bodyBytesMax) chunks.push(chunk);
    else
      refuse(new TorporError("request.tooLarge", `the body is larger than ${bodyBytesMax} bytes`));
  };
  const finish = (): void => {
    stop();
    resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks));
  };
  const fail = (): void =>
    refuse(new TorporError("argument.invalid", "the body is cut short or is not valid HTTP"));
  const timer = setTimeout(() => refuse(slowRequest()), bodyMs);
  request.on("data", take).on("end", finish).on("error", fail).on("close", fail);
  return promise;
}

/** The error of a request whose head or body did not arrive in time. */
export function slowRequest(): TorporError {
  return new TorporError("request.slow", "the request did not arrive in time");
}

function decode(bytes: Buffer): string {
  if (isUtf8(bytes)) return bytes.toString();
  throw new TorporError("argument.invalid", "the body is not valid UTF-8");
}
