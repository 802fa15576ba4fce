/** Clients that say what they saw in a few words, and wait for no more than they need. */
import { once } from "node:events";
import type { ClientHttp2Session, IncomingHttpHeaders, OutgoingHttpHeaders } from "node:http2";
import type { Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

/** Nothing is decided by it but that a test fails instead of hanging. */
const patienceMs = 20_000;

/** @returns all that comes until `isEnough`, or the other side closes. */
export async function receive(
  socket: Socket,
  isEnough: (text: string) => boolean,
): Promise<{ readonly text: string; readonly isClosed: boolean }> {
  let text = "";
  let isClosed = false;
  const { promise, resolve } = Promise.withResolvers<void>();
  const onData = (chunk: Buffer): void => {
    text += chunk.toString("latin1");
    if (isEnough(text)) resolve();
  };
  const onEnd = (): void => {
    isClosed = true;
    resolve();
  };
  socket.on("data", onData);
  socket.on("end", onEnd);
  socket.on("close", onEnd);
  if (socket.destroyed) onEnd();
  const patience = sleep(patienceMs, undefined, { ref: false });
  await Promise.race([promise, patience]);
  socket.off("data", onData);
  return { text, isClosed };
}

/** The status of every final answer in `text`. */
export function statusesIn(text: string): readonly string[] {
  return [...text.matchAll(/HTTP\/1\.1 ([2-5]\d\d)/g)].map(([, status = ""]) => status);
}

/** `status body`, or `status broken`, of one answer that ends with its connection. */
export function describeAnswer(text: string): string {
  const at = text.search(/HTTP\/1\.1 (?:101|[2-5]\d\d)/);
  if (at === -1) return "cut";
  const end = text.indexOf("\r\n\r\n", at);
  const head = text.slice(at, end + 2);
  const body = text.slice(end + 4);
  const status = head.slice(9, 12);
  if (status === "502") return status;
  const [, length] = /^content-length: (\d+)/im.exec(head) ?? [];
  if (status === "304") return `${status} ${body}`;
  if (length !== undefined)
    return body.length === Number(length) ? `${status} ${body}` : `${status} broken`;
  if (!/^transfer-encoding: chunked/im.test(head)) return `${status} ${body}`;
  const chunks = /^((?:[0-9a-f]+\r\n[^]*?\r\n)*?)0\r\n(?:[^\r\n]+\r\n)*\r\n$/.exec(body);
  if (chunks === null) return `${status} broken`;
  return `${status} ${(chunks[1] ?? "").replaceAll(/[0-9a-f]+\r\n([^]*?)\r\n/g, "$1")}`;
}

/** The same by HTTP/2. */
export async function askHttp2(
  session: ClientHttp2Session,
  path: string,
  headers: OutgoingHttpHeaders = {},
): Promise<string> {
  const stream = session.request({ ":path": path, ...headers });
  stream.end();
  let status = "cut";
  let body = "";
  let isBroken = false;
  stream.on("response", (head: IncomingHttpHeaders) => (status = String(head[":status"])));
  stream.on("data", (chunk: Buffer) => (body += chunk.toString("latin1")));
  stream.on("error", () => (isBroken = true));
  await Promise.race([once(stream, "close").catch(() => undefined), sleep(patienceMs)]);
  await sleep(0);
  if (isBroken) return `${status} broken`;
  return status === "502" ? status : `${status} ${body}`;
}
