/**
 * Answers a guest's DNS questions over UDP at its gateway's address: only for names that its policy
 * lets it resolve, and never with an address that it may not reach, so that no name leads to a
 * private network.
 *
 * Answers hold IPv4 addresses only. Questions for IPv6 addresses and for HTTPS records get an empty
 * answer, so that clients continue at once; other types are refused as not implemented.
 */
import { type Socket, createSocket } from "node:dgram";
import { ignoreFailure, systemCode } from "@torpor/std";
import {
  type Question,
  type ResponseCode,
  encodeAnswer,
  parseQuestion,
  recordType,
  responseCode,
} from "./dns-message.ts";
import type { Outside, ResolvedAddress } from "./outside.ts";

/** LIMIT: questions in progress; a client whose question is dropped asks again. */
const questionsMax = 64;
/** LIMIT: a client that kept an answer for longer would miss a change of policy. */
const ttlSecondsMax = 60;

/** Options of `NameServer`. */
export interface NameServerOptions {
  /** A bound UDP socket, which the name server takes over. */
  readonly descriptor: number;
  readonly outside: Outside;
  /** Whether the policy lets the guest resolve this name. */
  readonly mayResolve: (name: string) => boolean;
  /** Whether the guest may be given this address. */
  readonly mayReach: (address: string) => boolean;
}

/** The name server of one guest, open until it is disposed of. */
export class NameServer implements Disposable {
  readonly #socket: Socket;
  readonly #options: NameServerOptions;
  #questions = 0;
  #isOpen = true;

  constructor(options: NameServerOptions) {
    this.#options = options;
    this.#socket = createSocket("udp4", (message, { address, port }) => {
      void ignoreFailure("the client asks again", this.#serve(message, address, port));
    });
    // For example, the guest closed its socket before the response arrived.
    this.#socket.on("error", () => undefined);
    this.#socket.bind({ fd: options.descriptor });
    this.#socket.unref();
  }

  [Symbol.dispose](): void {
    if (this.#isOpen) this.#socket.close();
    this.#isOpen = false;
  }

  async #serve(message: Buffer, address: string, port: number): Promise<void> {
    const question = parseQuestion(message);
    if (question === undefined || this.#questions >= questionsMax) return;
    this.#questions += 1;
    try {
      const answer = await this.#answer(question);
      if (this.#isOpen) this.#socket.send(answer, port, address);
    } finally {
      this.#questions -= 1;
    }
  }

  async #answer(question: Question): Promise<Buffer> {
    const { outside, mayResolve, mayReach } = this.#options;
    if (!mayResolve(question.name)) return encodeAnswer(question, responseCode.refused);
    switch (question.type) {
      case recordType.a:
        break;
      case recordType.aaaa:
      case recordType.https:
        return encodeAnswer(question, responseCode.ok);
      default:
        return encodeAnswer(question, responseCode.notImplemented);
    }
    try {
      const found = await outside.resolve(question.name);
      return encodeAnswer(question, responseCode.ok, reachable(found, mayReach));
    } catch (cause) {
      return encodeAnswer(question, codeOf(cause));
    }
  }
}

/** Keeps the addresses that the guest may reach, and limits how long a client may cache them. */
export function reachable(
  found: readonly ResolvedAddress[],
  mayReach: NameServerOptions["mayReach"],
): readonly ResolvedAddress[] {
  return found
    .filter(({ address }) => mayReach(address))
    .map(({ address, ttlSeconds }) => ({
      address,
      ttlSeconds: Math.max(0, Math.min(ttlSeconds, ttlSecondsMax)),
    }));
}

function codeOf(cause: unknown): ResponseCode {
  const code = systemCode(cause);
  if (code === "ENODATA") return responseCode.ok;
  return code === "ENOTFOUND" ? responseCode.noName : responseCode.serverFailure;
}
