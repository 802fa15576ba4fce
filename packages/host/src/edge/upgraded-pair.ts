/**
 * A client's and a guest's connection that no longer carry HTTP: bytes pass both ways, and the end
 * of either is the end of both. A WebSocket is closed with a code that tells the reason, if a frame
 * can be inserted.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { AnswerHead } from "./answer-parser.ts";
import { reasonOf } from "./heads.ts";
import { valueOf } from "./http-syntax.ts";
import { deadPeerMs } from "./limits.ts";
import type { Ending } from "./traffic.ts";
import { WebSocketFrames, closeCodes, closeFrame } from "./websocket-frames.ts";

/** How long a client that does not read its last bytes keeps its connection. */
const lingerMs = 10_000;

/** The two connections, and the answer that joined them. */
export interface UpgradedPairOptions {
  readonly client: Duplex;
  readonly guest: Duplex;
  /** The head by which the guest agreed to the change. */
  readonly answer: AnswerHead;
}

/** Joins the two connections until one ends, or until it is cut. */
export class UpgradedPair {
  readonly #client: Duplex;
  readonly #guest: Duplex;
  readonly #answer: AnswerHead;
  readonly #frames: WebSocketFrames | undefined;
  readonly #closed = Promise.withResolvers<void>();

  constructor({ client, guest, answer }: UpgradedPairOptions) {
    this.#client = client;
    this.#guest = guest;
    this.#answer = answer;
    const isWebSocket = /^websocket$/i.test(valueOf(answer.fields, "upgrade") ?? "");
    this.#frames = isWebSocket ? new WebSocketFrames() : undefined;
  }

  /** Settles when both connections are closed, or cut. */
  get closed(): Promise<void> {
    return this.#closed.promise;
  }

  /**
   * Sends the client the guest's answer, and joins both.
   * @param fromClient, fromGuest Bytes that either sent after its head.
   */
  start(fromClient: Buffer, fromGuest: Buffer): void {
    const client = this.#client;
    const guest = this.#guest;
    for (const socket of [client, guest]) {
      socket.on("error", () => socket.destroy());
      // Both may be silent for long; keep-alive detects a peer that is gone.
      if (socket instanceof Socket)
        socket.setNoDelay(true).setKeepAlive(true, deadPeerMs).setTimeout(0);
    }
    client.once("close", () => {
      guest.destroy();
      this.#closed.resolve();
    });
    guest.once("close", () => this.#end());
    client.write(headText(this.#answer), "latin1");
    if (fromGuest.length > 0) guest.unshift(fromGuest);
    if (fromClient.length > 0) client.unshift(fromClient);
    if (this.#frames !== undefined) guest.on("data", (chunk: Buffer) => this.#frames?.push(chunk));
    guest.pipe(client);
    client.pipe(guest);
  }

  /** Ends both connections at once; a WebSocket's client gets a close code for the reason. */
  cut(ending: Ending): void {
    const client = this.#client;
    this.#guest.unpipe(client);
    this.#guest.removeAllListeners("close");
    this.#guest.destroy();
    if (this.#frames?.mayClose === true) {
      const code = ending === "paused" ? closeCodes.serviceRestart : closeCodes.goingAway;
      client.write(closeFrame(code, `the sandbox was ${ending}`));
      this.#end();
    } else {
      client.destroy();
    }
    this.#closed.resolve();
  }

  /**
   * Closes the client's side once it has read the bytes on their way, or after a while if it does
   * not read.
   */
  #end(): void {
    const client = this.#client;
    client.end(() => client.destroy());
    setTimeout(() => client.destroy(), lingerMs).unref();
  }
}

/**
 * The guest's head as it was sent, without framing, which such an answer does not have (RFC 9110,
 * 15.2.2).
 */
function headText(head: AnswerHead): string {
  const { names, pairs } = head.fields;
  let text = `HTTP/1.1 ${head.status} ${reasonOf(head)}\r\n`;
  for (let index = 0; index < names.length; index += 1) {
    const name = names[index] ?? "";
    if (name === "content-length" || name === "transfer-encoding") continue;
    text += `${pairs[2 * index]}: ${pairs[2 * index + 1]}\r\n`;
  }
  return `${text}\r\n`;
}
