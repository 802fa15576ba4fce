/**
 * Firecracker's API: HTTP over its Unix socket, JSON both ways, one request at a time.
 *
 * Success is 204, or 200 with an answer; anything else carries a `fault_message` and becomes
 * `vmm.failed` with that text. Besides the requests one idle connection is kept open: when it
 * closes, the process has ended, which is noticed at once, also for a process that this one did not
 * start.
 */
import { request as httpRequest } from "node:http";
import type { Socket } from "node:net";
import {
  type Deadline,
  type JsonObject,
  TorporError,
  parseJson,
  parseObject,
  parseString,
} from "@torpor/std";
import { awaitRunSocket, connectRunSocket } from "../run-files.ts";
import type { ApiRequest } from "./requests.ts";

/** LIMIT: the longest answer used here is under 1 KiB. */
const answerBytesMax = 1 << 16;

/** A client of one Firecracker process. */
export class FirecrackerApi {
  /** Settles when Firecracker has ended, or after `close`. Never rejects. */
  readonly closed: Promise<void>;
  readonly #path: string;
  readonly #lifeline: Socket;
  /** INVARIANT: the next request is sent when this has settled; it never rejects. */
  #last: Promise<unknown> = Promise.resolve();

  private constructor(path: string, lifeline: Socket) {
    this.#path = path;
    this.#lifeline = lifeline;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.closed = promise;
    lifeline.on("error", () => lifeline.destroy());
    lifeline.on("close", resolve);
    lifeline.resume();
  }

  /**
   * Waits for the socket to appear, as long as `alive` says that Firecracker may still create it.
   * @throws vmm.exited
   */
  static async connect(
    path: string,
    alive: () => boolean,
    deadline: Deadline,
  ): Promise<FirecrackerApi> {
    return new FirecrackerApi(path, await awaitRunSocket(path, "Firecracker", alive, deadline));
  }

  /**
   * Sends a request after all earlier ones.
   * @throws vmm.failed in Firecracker's own words, vmm.exited if it is gone.
   */
  async send(request: ApiRequest, deadline: Deadline): Promise<JsonObject> {
    const before = this.#last;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#last = promise;
    try {
      await deadline.race(before);
      return await deadline.race(this.#exchange(request, deadline));
    } finally {
      resolve();
    }
  }

  /** Disconnects from the process; `closed` settles. */
  close(): void {
    this.#lifeline.destroy();
  }

  async #exchange({ method, path, body }: ApiRequest, deadline: Deadline): Promise<JsonObject> {
    const { signal } = deadline;
    const socket = await connectRunSocket(this.#path, deadline).catch(asClosed);
    const text = body === undefined ? "" : JSON.stringify(body);
    const length = {
      "content-type": "application/json",
      "content-length": Buffer.byteLength(text),
    };
    const { status, answer } = await new Promise<{ status: number; answer: string }>(
      (resolve, reject) => {
        const sent = httpRequest(
          {
            createConnection: () => socket,
            method,
            path,
            signal,
            headers: { accept: "application/json", ...(body === undefined ? {} : length) },
          },
          (response) => {
            let received = "";
            response.setEncoding("utf8");
            response.on("data", (chunk: string) => {
              received += chunk;
              if (received.length > answerBytesMax) response.destroy();
            });
            response.on("error", reject);
            response.on("end", () =>
              resolve({ status: response.statusCode ?? 0, answer: received }),
            );
          },
        );
        sent.on("error", reject);
        sent.end(text);
      },
    ).catch((cause: unknown) => {
      if (signal.aborted) throw cause;
      asClosed(cause);
    });
    if (status === 204) return {};
    if (status === 200) return parseObject(parseJson(answer, path), path);
    throw new TorporError("vmm.failed", `Firecracker: ${method} ${path}: ${faultOf(answer)}`);
  }
}

/** @throws vmm.exited, or the cause itself if it is a `TorporError`. */
function asClosed(cause: unknown): never {
  if (TorporError.is(cause)) throw cause;
  throw new TorporError("vmm.exited", "Firecracker closed its control socket", { cause });
}

function faultOf(answer: string): string {
  try {
    return parseString(parseObject(parseJson(answer, "fault"), "fault")["fault_message"], "fault");
  } catch {
    return answer.slice(0, 200);
  }
}
