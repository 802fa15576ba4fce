/**
 * A client's and a guest's connection that have left HTTP behind: bytes pass both ways, and the end of
 * either is the end of both. A WebSocket is closed with a code that says why, if a frame can be put in.
 */
import { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { AnswerHead } from "./answer-parser.ts";
import { reasonOf } from "./heads.ts";
import { valueOf } from "./http-syntax.ts";
import { deadPeerMs } from "./limits.ts";
import type { Ending } from "./traffic.ts";
import { WebSocketFrames, closeCodes, closeFrame } from "./websocket-frames.ts";

/** A client that does not read the last of its bytes is cut off so much later. */
const lingerMs = 10_000;

export interface UpgradedPairOptions {
  readonly client: Duplex;
  readonly guest: Duplex;
  /** The head with which the guest agreed. */
  readonly answer: AnswerHead;
}

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

  /** @param fromClient, fromGuest What either has sent behind its head. */
  start(fromClient: Buffer, fromGuest: Buffer): void {
    const client = this.#client;
    const guest = this.#guest;
    for (const socket of [client, guest]) {
      socket.on("error", () => socket.destroy());
      // Both may be silent for long; so a peer that is gone is found out.
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

  /** Closes the client's side once it has read what is on its way, if it reads at all. */
  #end(): void {
    const client = this.#client;
    client.end(() => client.destroy());
    setTimeout(() => client.destroy(), lingerMs).unref();
  }
}

/** As the guest sent it, but for a framing, which there is none for (RFC 9110, 15.2.2). */
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
