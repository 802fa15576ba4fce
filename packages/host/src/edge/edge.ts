/**
 * The edge: carries what clients send to ports of sandboxes into the guests, and the answers back.
 *
 *     target    whom is it for?                     misnamed: 400, the API's: not ours
 *     private   a route of the host alone?          404, before any look-up
 *     entrance  may it pass? is there a run?        403, 502, 409, 429; wakes, waits
 *     exchange  there and back                      502 when the guest does not answer
 *
 * Each exchange belongs to one run of the VM (traffic.ts) and is a use of the sandbox for as long as it
 * lasts. The edge keeps no state of its own but which sandboxes it is waking.
 */
import { type IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { agentPort, privateRoutes } from "@torpor/protocol";
import type { Socket } from "node:net";
import { type EdgeSandbox, Entrance, refusalOf } from "./entrance.ts";
import { HttpExchange, type UpgradeWish } from "./http-exchange.ts";
import { maskedHost } from "./ingress.ts";
import { sendRefusal } from "./refusal.ts";
import { targetOf } from "./target.ts";

export interface EdgeOptions {
  /** Sandboxes have names below it: `<port>-<id>.<domain>`. */
  readonly domain: string;
  readonly find: (sandboxId: string) => EdgeSandbox | undefined;
  /** How long a request waits for a sandbox on its way; only tests pass one. */
  readonly transitionMs?: number | undefined;
}

export class Edge {
  readonly #domain: string;
  readonly #entrance: Entrance;

  constructor({ domain, find, transitionMs }: EdgeOptions) {
    this.#domain = domain.toLowerCase();
    this.#entrance = new Entrance(find, transitionMs);
  }

  /** True when the request names a sandbox, rightly or not, and is not for the API. */
  takes({ headers }: IncomingMessage): boolean {
    return targetOf(headers, this.#domain).kind !== "api";
  }

  /** Answers a request that it takes. Never rejects. */
  async serve(
    request: IncomingMessage,
    response: ServerResponse,
    wish?: UpgradeWish,
  ): Promise<void> {
    // A client that hangs up in the middle is no news to anybody.
    request.on("error", () => undefined);
    response.on("error", () => undefined);
    const target = targetOf(request.headers, this.#domain);
    const path = pathOf(request.url ?? "/");
    if (target.kind !== "guest" || path === undefined) {
      const message = target.kind === "misnamed" ? target.message : "the URL has no path";
      sendRefusal(request, response, { status: 400, message });
      return;
    }
    const route = path.split("?", 1)[0] ?? path;
    if (target.port === agentPort && privateRoutes.includes(route)) {
      const message = "this route is not open to clients";
      sendRefusal(request, response, { status: 404, message, path: route });
      return;
    }
    const visitor = { ...target, headers: request.headers };
    try {
      const admission = await this.#entrance.admit(visitor);
      if (admission.kind === "refused") {
        sendRefusal(request, response, admission.refusal);
        return;
      }
      const { sandbox, traffic } = admission;
      using uses = new DisposableStack();
      uses.use(sandbox.activity.begin());
      const { port } = target;
      const to = { traffic, port, path, maskedHost: maskedHost(sandbox.record, port) };
      await new HttpExchange(to, request, response, wish).run();
    } catch (cause) {
      sendRefusal(request, response, refusalOf(cause, visitor));
    }
  }

  /** Answers a request that wants another protocol than HTTP on its connection. */
  serveUpgrade(request: IncomingMessage, socket: Duplex, first: Buffer): void {
    const response = new ServerResponse(request);
    response.shouldKeepAlive = false;
    response.assignSocket(socket as Socket);
    socket.on("error", () => socket.destroy());
    response.once("finish", () => socket.end());
    const wish = { protocol: request.headers.upgrade ?? "", socket, first };
    void this.serve(request, response, wish);
  }
}

/** Undefined when there is none. Proxies are asked with whole URLs (RFC 9112, 3.2.2). */
function pathOf(url: string): string | undefined {
  if (url.startsWith("/") || url === "*") return url;
  const parsed = URL.parse(url);
  return parsed === null ? undefined : `${parsed.pathname}${parsed.search}`;
}
