/**
 * The agent of a fake VM: health, init, prepare and cancel by the rules of lifecycle.ts of the
 * protocol.
 *
 * The first page of the VM's memory holds all its state, so that a restore brings back exactly what
 * was saved: whether it is at rest, its generation, and whose key it obeys.
 */
import { randomBytes } from "node:crypto";
import { type IncomingMessage, type Server, type ServerResponse, createServer } from "node:http";
import { once } from "node:events";
import {
  type InitRequest,
  type InitResponse,
  type PrepareResponse,
  cancelRoute,
  healthRoute,
  hostKeyHeader,
  initRoute,
  parseInitRequest,
  parsePrepareRequest,
  prepareRoute,
} from "@torpor/protocol";
import { TorporError, parseJson } from "@torpor/std";
import { type FakeMemory, pageBytes } from "./fake-memory.ts";
import { openFakeTunnel } from "./fake-tunnel.ts";

/** The state of a fake agent. */
export interface GuestMind {
  /** Whether user processes are frozen and the agent accepts no new work. */
  readonly atRest: boolean;
  readonly generation: number;
  readonly hostKey: string;
  readonly previousHostKey: string;
  readonly sandboxId: string;
  readonly accessToken: string | null;
  /** The hash of the last init's random bytes, to recognize its repeat. */
  readonly randomHash: string;
}

/** The VM around a fake agent. */
export interface FakeGuestOptions {
  readonly memory: FakeMemory;
  /** Settles once the vCPUs run; never settles when the VM is gone. */
  readonly running: () => Promise<void>;
  /** Called with a description of what no host may do. */
  readonly accuse: (what: string) => void;
}

const noHooks = { run: 0, failed: 0 };

/** Encodes the state as a page. */
export function encodeMind(mind: GuestMind): Buffer {
  const page = Buffer.alloc(pageBytes);
  page.write(JSON.stringify(mind));
  return page;
}

/** An agent that serves the guest's side of the protocol on a port of the loopback. */
export class FakeGuest {
  readonly #options: FakeGuestOptions;
  readonly #server: Server;

  constructor(options: FakeGuestOptions) {
    this.#options = options;
    this.#server = createServer((request, response) => void this.#serve(request, response));
    this.#server.on("connect", openFakeTunnel);
  }

  /** Starts to serve. @throws system error when the port is in use */
  async listen(port: number): Promise<void> {
    this.#server.listen(port, "127.0.0.1");
    await once(this.#server, "listening");
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  get mind(): GuestMind {
    const page = this.#options.memory.pageBytesOf(0);
    return parseJson(page.toString("utf8").replace(/\0+$/, ""), "the guest's mind") as GuestMind;
  }

  #change(change: Partial<GuestMind>): void {
    this.#options.memory.writeAt(0, encodeMind({ ...this.mind, ...change }));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    let text = "";
    for await (const chunk of request) text += String(chunk);
    await this.#options.running();
    try {
      const answer = this.#answer(request, text);
      response.setHeader("connection", request.url === prepareRoute ? "close" : "keep-alive");
      response.writeHead(answer === undefined ? 204 : 200);
      response.end(answer === undefined ? undefined : JSON.stringify(answer));
    } catch (cause) {
      const error = TorporError.from(cause, "internal");
      response.writeHead(error.status).end(JSON.stringify(error.toBody()));
    }
  }

  #answer({ url, headers }: IncomingMessage, text: string): object | undefined {
    if (url === healthRoute) return undefined;
    const key = String(headers[hostKeyHeader]);
    const body: unknown = parseJson(text, "body");
    if (url === initRoute) return this.#init(parseInitRequest(body), key);
    if (key !== this.mind.hostKey) throw new TorporError("auth.missing", "wrong host key");
    if (url === prepareRoute) {
      parsePrepareRequest(body);
      return this.#prepare();
    }
    if (url === cancelRoute) return this.#cancel();
    throw new TorporError("argument.invalid", `no route ${String(url)}`);
  }

  #init(request: InitRequest, key: string): InitResponse {
    const { mind } = this;
    const isRepeat = request.generation === mind.generation;
    if (key !== mind.hostKey && !(isRepeat && key === mind.previousHostKey)) {
      throw new TorporError("auth.missing", "wrong host key");
    }
    if (request.generation < mind.generation) {
      throw new TorporError("sandbox.wrongState", `generation ${mind.generation} is newer`);
    }
    if (!isRepeat) this.#wake(request);
    return {
      generation: request.generation,
      randomHash: this.mind.randomHash,
      clockStepMs: 0,
      connectionsDestroyed: 0,
      socketsDestroyed: 0,
      hooks: noHooks,
    };
  }

  #wake(request: InitRequest): void {
    const { mind } = this;
    const { accuse } = this.#options;
    if (!mind.atRest) accuse("a guest was saved while it was not at rest");
    const isOther = request.sandboxId !== mind.sandboxId;
    if (isOther && request.machine === null) accuse(`goes on as the machine of ${mind.sandboxId}`);
    if (!isOther && request.machine !== null) accuse("wakes as another machine");
    this.#change({
      atRest: false,
      generation: request.generation,
      hostKey: request.hostKey,
      previousHostKey: mind.hostKey,
      sandboxId: request.sandboxId,
      accessToken: request.accessToken,
      randomHash: randomBytes(32).toString("hex"),
    });
  }

  #prepare(): PrepareResponse {
    const { atRest, generation } = this.mind;
    if (atRest) throw new TorporError("sandbox.wrongState", "the guest is at rest");
    this.#change({ atRest: true });
    const counts = { connectionsClosed: 0, connectionsRecorded: 0, processesFrozen: 1 };
    return { generation, ...counts, hooks: noHooks };
  }

  #cancel(): { readonly canceled: boolean } {
    const canceled = this.mind.atRest;
    if (canceled) this.#change({ atRest: false });
    return { canceled };
  }
}
