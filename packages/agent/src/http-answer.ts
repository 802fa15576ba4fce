/** JSON answers and small bodies of the plain routes. */
import type { IncomingMessage, ServerResponse } from "node:http";
import { TorporError } from "@torpor/std";

/** Answers with a status and a JSON body. */
export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const bytes = Buffer.from(JSON.stringify(body));
  response.writeHead(status, {
    "Content-Type": "application/json",
    "Content-Length": bytes.length,
  });
  response.end(bytes);
}

/** Answers with a failure: `{code, message}`, where `code` is the status. */
export function sendError(response: ServerResponse, status: number, message: string): void {
  sendJson(response, status, { code: status, message });
}

/**
 * Reads a whole body.
 * @throws argument.invalid when it is longer than `bytesMax`; the rest stays unread then.
 */
export async function readBody(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  const { promise, resolve, reject } = Promise.withResolvers<Buffer>();
  const chunks: Buffer[] = [];
  let bytes = 0;
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes <= bytesMax) {
      chunks.push(chunk);
      return;
    }
    request.pause();
    reject(new TorporError("argument.invalid", `the body must have at most ${bytesMax} bytes`));
  });
  request.once("end", () => resolve(Buffer.concat(chunks)));
  request.once("error", reject);
  return await promise;
}

/**
 * Reads and discards the rest of a refused request. Most clients read no answer before they have
 * sent everything, and would wait for ever.
 */
export function discardRest(request: IncomingMessage): void {
  request.removeAllListeners("readable");
  request.resume();
}
