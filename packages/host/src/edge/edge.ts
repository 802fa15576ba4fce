/**
 * The edge: carries clients' requests to ports of sandboxes into the guests, and the answers back.
 *
 *     target    which sandbox is it for?            misnamed: 400, the API's: not ours
 *     private   a route of the host alone?          404, before any look-up
 *     entrance  may it pass? is there a run?        403, 502, 409, 429; wakes, waits
 *     exchange  there and back                      502 when the guest does not answer
 *
 * Each exchange belongs to one run of the VM (traffic.ts) and is a use of the sandbox for as long
 * as it lasts. The edge keeps no state of its own except connections, shares, and which sandboxes
 * it is waking.
 *
 * SAFETY: every exchange runs in `serve`, which never throws. An unforeseen error breaks off that
 * exchange only.
 */
import { type IncomingMessage, ServerResponse } from "node:http";
import { descriptorsMax } from "@torpor/native";
import { agentPort, healthRoute, privateRoutes } from "@torpor/protocol";
import { type Logger, silentLogger } from "@torpor/std";
import type { Socket } from "node:net";
import { clientAnswerTo } from "./client-answer.ts";
import { ClientConnections } from "./client-connections.ts";
import { contain } from "./containment.ts";
import { type EdgeSandbox, Entrance, refusalOf } from "./entrance.ts";
import type { RequestHead } from "./heads.ts";
import { HttpExchange, type UpgradeWish, brokenBody } from "./http-exchange.ts";
import { isHttp2 } from "./http2.ts";
import { maskedHost } from "./ingress.ts";
import { type EdgeLimits, limitsFor } from "./limits.ts";
import { sendRefusal } from "./refusal.ts";
import { type Target, targetOf } from "./target.ts";

/** How the edge finds sandboxes, and its limits. */
export interface EdgeOptions {
  /** Sandboxes have names below this domain: `<port>-<id>.<domain>`. */
  readonly domain: string;
  readonly find: (sandboxId: string) => EdgeSandbox | undefined;
  /** How long a request waits for a sandbox in a transition, in milliseconds; only tests set it. */
  readonly transitionMs?: number | undefined;
  readonly log?: Logger | undefined;
  /** Derived from the process's limit of descriptors if absent. */
  readonly limits?: EdgeLimits | undefined;
}

/** The target of a request that is not for the API. */
export type EdgeTarget = Exclude<Target, { readonly kind: "api" }>;

/** A request whose head has been parsed and whose target is known. */
export interface Named {
  readonly target: EdgeTarget;
  readonly head: RequestHead;
}

type Upgradable = Pick<UpgradeWish, "socket" | "first">;

/** The edge of one daemon. */
export class Edge {
  /** The connections of all listeners. */
  readonly connections: ClientConnections;
  readonly #domain: string;
  readonly #entrance: Entrance;
  readonly #log: Logger;

  constructor({ domain, find, transitionMs, log = silentLogger, limits }: EdgeOptions) {
    const held = limits ?? limitsFor(descriptorsMax());
    this.connections = new ClientConnections(held);
    this.#domain = domain.toLowerCase();
    this.#entrance = new Entrance(find, held, transitionMs);
    this.#log = log;
  }

  /**
   * The target of a request; undefined when it is for the API, because it names no sandbox, right
   * or wrong.
   */
  targetOf({ headers }: IncomingMessage): EdgeTarget | undefined {
    const target = targetOf(headers, this.#domain);
    return target.kind === "api" ? undefined : target;
  }

  /** Answers a request. Never throws or rejects. */
  serve(
    request: IncomingMessage,
    response: ServerResponse,
    named: Named,
    wish?: UpgradeWish,
  ): void {
    const { socket } = request;
    contain(
      () => this.#serve(request, response, named, wish),
      (cause) => {
        this.#log.error("an exchange of the edge failed", { cause });
        if (isHttp2(request)) clientAnswerTo(request, response).breakOff();
        else socket.destroy();
      },
    );
  }

  /** Answers a request to change the protocol of its connection. Never throws. */
  serveUpgrade(request: IncomingMessage, head: RequestHead, { socket, first }: Upgradable): void {
    contain(
      () => {
        socket.on("error", () => socket.destroy());
        this.connections.keep(socket as Socket);
        const target = this.targetOf(request);
        const response = new ServerResponse(request);
        response.shouldKeepAlive = false;
        response.assignSocket(socket as Socket);
        response.once("finish", () => socket.end());
        const wish = { protocol: request.headers.upgrade ?? "", socket, first };
        if (target === undefined) socket.destroy();
        else this.serve(request, response, { target, head }, wish);
      },
      (cause) => {
        this.#log.error("an upgrade failed", { cause });
        socket.destroy();
      },
    );
  }

  async #serve(
    request: IncomingMessage,
    response: ServerResponse,
    { target, head }: Named,
    wish: UpgradeWish | undefined,
  ): Promise<void> {
    // A client that disconnects in the middle is not an error.
    let isBroken = false;
    request.on("error", () => (isBroken = true));
    response.on("error", () => undefined);
    if (target.kind === "misnamed") {
      sendRefusal(request, response, { status: 400, message: target.message });
      return;
    }
    const route = head.path.split("?", 1)[0] ?? head.path;
    const { port } = target;
    if (port === agentPort && privateRoutes.includes(route)) {
      const message = "this route is not open to clients";
      sendRefusal(request, response, { status: 404, message, path: route });
      return;
    }
    const { remoteAddress: address } = request.socket;
    const isSecure = isHttp2(request)
      ? request.stream.session?.encrypted === true
      : "encrypted" in request.socket;
    const isProbe =
      port === agentPort && route === healthRoute && /^(?:GET|HEAD)$/.test(head.method);
    const visitor = { ...target, headers: request.headers, address, isProbe };
    try {
      const admission = await this.#entrance.admit(visitor);
      if (admission.kind === "refused") {
        sendRefusal(request, response, admission.refusal);
        return;
      }
      if (isBroken) throw brokenBody();
      const { sandbox, traffic } = admission;
      using uses = new DisposableStack();
      uses.use(admission.place);
      if (!isProbe) uses.use(sandbox.activity.begin());
      const to = { traffic, port, maskedHost: maskedHost(sandbox.record, port) };
      const client = { address, isSecure };
      await new HttpExchange(to, { head, client, request, response, wish }).run();
    } catch (cause) {
      sendRefusal(request, response, refusalOf(cause, visitor));
    }
  }
}
