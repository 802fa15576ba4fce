/**
 * The way out of one sandbox's namespace: the daemon itself.
 *
 * The namespace leads nowhere. Inside it every address is local. The kernel hands the connections
 * that the policy allows to one listening socket of the daemon and refuses the others, and the
 * daemon connects to the outside on the guest's behalf, from the host's own network. Nothing on the
 * host is configured for this, and all of it disappears when the daemon ends: guests are then
 * refused everything until the next daemon takes over.
 *
 * TCP only, and questions to the name server at the gateway. All other UDP is answered with "port
 * unreachable", which makes QUIC clients fall back at once.
 */
import { type Socket, createServer } from "node:net";
import { ConnectionDispatch, type NetworkNamespace, openBoundSocket } from "@torpor/native";
import { ignoreFailure } from "@torpor/std";
import {
  type AnnouncedName,
  announcementBytesMax,
  httpHost,
  tlsServerName,
} from "./announced-name.ts";
import { isForbidden } from "./forbidden-ranges.ts";
import { NameServer, reachable } from "./name-server.ts";
import {
  type EgressDecision,
  type NetworkPolicy,
  allowsName,
  closedPolicy,
  decideEgress,
  egressRules,
  mayResolve,
  namePorts,
} from "./network-policy.ts";
import type { Outside } from "./outside.ts";
import { type PassageBudget, processBudget } from "./passage-budget.ts";
import { Relay } from "./relay.ts";

const namePort = 53;
/**
 * LIMIT: new connections a second from one sandbox; the daemon of all sandboxes has to accept them.
 */
const connectionsPerSecondMax = 256;
/** How long new connections are counted before the count starts again. */
const breatherMs = 1_000;
/**
 * Interval at which connections to networks that have become the host's own are looked for and
 * reset.
 */
const nearLookMs = 1_000;
/** How long a connection may take to announce its name. */
const announcementBudgetMs = 10_000;

/** One connection, from the moment it is accepted. */
interface Passage {
  readonly inside: Socket;
  readonly address: string;
  readonly port: number;
  /** The name it announced, if it was allowed because of that name. */
  name?: string;
  relay?: Relay;
  /** The address that the relay connects to. */
  farAddress?: string;
}

/**
 * Carries the allowed TCP connections of one sandbox to the outside, and answers its DNS questions.
 */
export class Egress implements Disposable {
  readonly #outside: Outside;
  readonly #dispatch: ConnectionDispatch;
  readonly #held = new DisposableStack();
  readonly #passages = new Set<Passage>();
  readonly #budget: PassageBudget;
  #policy: NetworkPolicy = closedPolicy;
  #newConnections = 0;
  #breather: NodeJS.Timeout | undefined;

  /**
   * Nothing is allowed until `setPolicy` is called.
   * @throws a system error if the kernel cannot do this, or if another daemon already does it for
   * the namespace.
   */
  constructor(
    namespace: NetworkNamespace,
    gatewayAddress: string,
    outside: Outside,
    budget = processBudget,
  ) {
    this.#outside = outside;
    this.#budget = budget;
    try {
      const listener = namespace.enter(() => openBoundSocket("tcp", "0.0.0.0", 0));
      const server = createServer({ allowHalfOpen: true }, (inside) => this.#admit(inside));
      server.listen({ fd: listener }).unref();
      this.#held.defer(() => server.close());
      this.#dispatch = this.#held.use(new ConnectionDispatch(namespace.fd, listener));
      this.#held.use(
        new NameServer({
          descriptor: namespace.enter(() => openBoundSocket("udp", gatewayAddress, namePort)),
          outside,
          mayResolve: (name) => mayResolve(this.#policy, name),
          mayReach: (address) => this.#mayReach(address),
        }),
      );
      this.#held.defer(() => clearTimeout(this.#breather));
      outside.nearRanges(); // fail now on a host that cannot list them
      const look = setInterval(() => this.#resetNear(), nearLookMs).unref();
      this.#held.defer(() => clearInterval(look));
      this.#held.defer(() => this.#reset(() => true));
    } catch (error) {
      this.#held.dispose();
      throw error;
    }
  }

  /** Applies a policy from now on. Open connections that it does not allow are reset. */
  setPolicy(policy: NetworkPolicy): void {
    this.#policy = policy;
    this.#applyRules();
    this.#reset((passage) => !this.#isAllowed(passage));
  }

  [Symbol.dispose](): void {
    this.#held.dispose();
  }

  #admit(inside: Socket): void {
    inside.on("error", () => undefined); // "close" follows and is handled below
    if (this.#isBusy()) {
      inside.resetAndDestroy(); // it was already on its way when the kernel's rules changed
      return;
    }
    const { localAddress: address = "", localPort: port = 0 } = inside;
    const passage: Passage = { inside, address, port };
    inside.once("close", () => {
      if (passage.relay === undefined) this.#forget(passage);
    });
    this.#passages.add(passage);
    this.#budget.take();
    this.#countNew();
    switch (this.#decide(address, port)) {
      case "allow":
        this.#carry(passage, address);
        break;
      case "inspect":
        void ignoreFailure("it is reset", this.#carryByName(passage));
        break;
      case "deny":
        inside.resetAndDestroy();
        break;
    }
  }

  #carry(passage: Passage, address: string): void {
    passage.farAddress = address;
    const far = this.#outside.connect(address, passage.port);
    passage.relay = new Relay(passage.inside, far, () => this.#forget(passage));
  }

  /**
   * Connects to the address that our own resolver finds for the announced name, not to the address
   * that the guest chose: a guest could announce an allowed name to any server it likes.
   */
  async #carryByName(passage: Passage): Promise<void> {
    const { inside, port } = passage;
    const name = await readAnnouncedName(inside, port === namePorts.tls ? tlsServerName : httpHost);
    try {
      if (name === null || !allowsName(this.#policy, name)) throw new Error("not allowed");
      const found = await this.#outside.resolve(name);
      const [first] = reachable(found, (address) => this.#mayReach(address));
      // While the name was resolved, the guest may have closed, or the policy may have changed.
      if (first === undefined || inside.destroyed || !allowsName(this.#policy, name)) {
        throw new Error("out of reach");
      }
      passage.name = name;
      this.#carry(passage, first.address);
    } catch (error) {
      inside.resetAndDestroy();
      throw error;
    }
  }

  #decide(address: string, port: number): EgressDecision {
    return this.#mayReach(address) ? decideEgress(this.#policy, address, port) : "deny";
  }

  #isAllowed({ address, port, name }: Passage): boolean {
    const egress = this.#decide(address, port);
    if (egress !== "inspect") return egress === "allow";
    return name === undefined || allowsName(this.#policy, name);
  }

  /** Checked each time, because the host's networks come and go. */
  #mayReach(address: string): boolean {
    try {
      return !isForbidden(address, this.#outside.nearRanges());
    } catch {
      return false; // an address that is not known to be far is refused
    }
  }

  /** Resets connections to addresses that have since become the host's own or its neighbours'. */
  #resetNear(): void {
    if (this.#passages.size === 0) return;
    this.#reset(({ farAddress }) => farAddress !== undefined && !this.#mayReach(farAddress));
  }

  #reset(which: (passage: Passage) => boolean): void {
    for (const passage of [...this.#passages].filter(which)) {
      if (passage.relay === undefined) passage.inside.resetAndDestroy();
      else passage.relay[Symbol.dispose]();
    }
  }

  #forget(passage: Passage): void {
    if (this.#passages.delete(passage)) this.#budget.giveBack();
  }

  /**
   * While a guest connects too fast, or holds too many connections, the kernel refuses new ones. It
   * does so for at least `breatherMs` at a time, at no cost to the daemon.
   */
  #countNew(): void {
    this.#newConnections += 1;
    if (this.#isBusy()) this.#applyRules();
    this.#breather ??= setTimeout(() => this.#breathe(), breatherMs).unref();
  }

  #breathe(): void {
    this.#newConnections = 0;
    this.#applyRules();
    this.#breather = this.#isBusy()
      ? setTimeout(() => this.#breathe(), breatherMs).unref()
      : undefined;
  }

  #isBusy(): boolean {
    const isFast = this.#newConnections >= connectionsPerSecondMax;
    return isFast || !this.#budget.allows(this.#passages.size);
  }

  #applyRules(): void {
    const rules = egressRules(this.#policy).map(({ egress, ...rule }) => ({
      ...rule,
      accept: egress !== "deny",
    }));
    this.#dispatch.setRules(this.#isBusy() ? [] : rules);
  }
}

/**
 * Reads the announced name and puts the bytes back for the next reader. Returns null if no name
 * arrives in time.
 */
async function readAnnouncedName(
  socket: Socket,
  find: (bytes: Buffer) => AnnouncedName,
): Promise<string | null> {
  const { promise, resolve } = Promise.withResolvers<string | null>();
  let bytes: Buffer = Buffer.alloc(0);
  const onData = (part: Buffer): void => {
    bytes = Buffer.concat([bytes, part]);
    const name = find(bytes);
    if (name !== undefined) resolve(name);
    else if (bytes.length > announcementBytesMax) resolve(null);
  };
  const onEnd = (): void => resolve(null);
  const timer = setTimeout(onEnd, announcementBudgetMs).unref();
  socket.on("data", onData).once("end", onEnd).once("close", onEnd);
  try {
    return await promise;
  } finally {
    clearTimeout(timer);
    socket.off("data", onData).off("end", onEnd).off("close", onEnd);
    socket.pause();
    if (!socket.destroyed && bytes.length > 0) socket.unshift(bytes);
  }
}
