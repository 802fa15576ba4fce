/**
 * A guest network without root: QEMU's user-mode stack with `restrict=on`, which lets nothing out,
 * and one forwarded port of the host's loopback that leads to the guest's agent.
 */
import { once } from "node:events";
import { type Socket, connect, createServer } from "node:net";
import { TorporError } from "@torpor/std";
import type {
  GuestAddressing,
  GuestNetwork,
  NetworkHandle,
  NewGuestNetwork,
} from "./guest-network.ts";
import { type NetworkPolicy, isClosed } from "./network-policy.ts";
import { unenforceable } from "./unenforceable.ts";

/** A guest network made of QEMU's user-mode stack; it enforces only a closed policy. */
export class UserNetwork implements GuestNetwork {
  readonly handle: NetworkHandle;
  readonly noInternet = "without root the network is QEMU's own, which is kept closed";
  readonly #hostPort: number;
  readonly #agentPort: number;

  constructor(hostPort: number, agentPort: number) {
    this.handle = { kind: "user", hostPort };
    this.#hostPort = hostPort;
    this.#agentPort = agentPort;
  }

  /** Chooses a free port of the host's loopback. @throws network.failed */
  static async create(addressing: GuestAddressing): Promise<NewGuestNetwork> {
    const { guestAddress, gatewayAddress, guestPrefixBits, agentPort } = addressing;
    const hostPort = await findFreePort();
    const network = new UserNetwork(hostPort, agentPort);
    return Object.assign(network, {
      attachment: {
        kind: "user" as const,
        guestAddress,
        gatewayAddress,
        guestPrefixBits,
        hostPort,
        guestPort: agentPort,
        [Symbol.dispose]: () => undefined,
      },
    });
  }

  dial(guestPort: number): Socket {
    if (guestPort !== this.#agentPort) {
      throw new TorporError(
        "network.failed",
        `port ${guestPort} of the guest is out of reach: without root only the agent's port is forwarded`,
      );
    }
    return connect(this.#hostPort, "127.0.0.1");
  }

  setPolicy(policy: NetworkPolicy): void {
    if (!isClosed(policy)) throw unenforceable(this.noInternet);
  }

  [Symbol.dispose](): void {
    // The stack lives in the VM process and ends with it.
  }
}

/**
 * Finds a port that nobody listens on right now. QEMU binds it a moment later, and fails if another
 * process took it.
 */
async function findFreePort(): Promise<number> {
  await using server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") {
    throw new TorporError("network.failed", "the host's loopback gave no port");
  }
  return address.port;
}
