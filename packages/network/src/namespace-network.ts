/**
 * A guest network in a namespace of its own (needs root).
 *
 * The namespace has no name: the VM process that is started inside it holds it, and it ends with
 * that process, so there is nothing to clean up after a crash. The daemon holds a descriptor while
 * it runs and finds the namespace again through the VM's pid.
 *
 * The namespace leads nowhere: every address in it is local, so that whatever a guest sends is
 * answered there at once, including a late packet of a connection that is gone. The way out is the
 * daemon (see egress.ts).
 */
import { closeSync, writeFileSync } from "node:fs";
import { Socket } from "node:net";
import {
  NetworkNamespace,
  bringUp,
  keepTap,
  openTap,
  openTcpSocket,
  pinNeighbour,
  routeEverythingHere,
  setHardwareAddress,
} from "@torpor/native";
import { TorporError } from "@torpor/std";
import type {
  Attachment,
  GuestAddressing,
  GuestNetwork,
  NetworkHandle,
  NewGuestNetwork,
} from "./guest-network.ts";
import { Egress } from "./egress.ts";
import { type NetworkPolicy, isClosed } from "./network-policy.ts";
import type { Outside } from "./outside.ts";
import { unenforceable } from "./unenforceable.ts";

const tapName = "tap0";
/**
 * MAC of the gateway, the host's end of every guest's network; the same in each, because guests
 * remember it.
 */
const gatewayMac = "02:54:4f:52:47:57";

/** Settings of a namespace in which every address answers, to a guest that may send anything. */
const answering: Readonly<Record<string, string>> = {
  // No answer is better than one in the name of a host that never saw the question.
  icmp_echo_ignore_all: "1",
  // The answer to all UDP is "port unreachable", and each sender needs it.
  icmp_ratelimit: "0",
  // Only the guest's own address is accepted as a source.
  "conf/all/rp_filter": "1",
  "conf/default/rp_filter": "1",
};

/** A guest network made of a network namespace and a TAP device. */
export class NamespaceNetwork implements GuestNetwork {
  readonly handle: NetworkHandle = { kind: "namespace" };
  readonly noInternet: string | undefined;
  readonly #namespace: NetworkNamespace;
  readonly #guestAddress: string;
  readonly #egress: Egress | undefined;

  private constructor(
    namespace: NetworkNamespace,
    { guestAddress, gatewayAddress }: GuestAddressing,
    outside: Outside,
  ) {
    this.#namespace = namespace;
    this.#guestAddress = guestAddress;
    try {
      this.#egress = new Egress(namespace, gatewayAddress, outside);
    } catch (cause) {
      this.noInternet = `the kernel refuses what opens it: ${TorporError.from(cause, "network.failed").rawMessage}`;
    }
  }

  /**
   * Makes a namespace with a TAP device.
   * @throws network.failed if the kernel refuses, for lack of root or of /dev/net/tun.
   */
  static create(addressing: GuestAddressing, outside: Outside): NewGuestNetwork {
    try {
      const namespace = NetworkNamespace.create();
      try {
        const tapFd = namespace.enter(() => prepareTap(addressing));
        const network = new NamespaceNetwork(namespace, addressing, outside);
        return Object.assign(network, { attachment: tapAttachment(namespace, tapFd) });
      } catch (error) {
        namespace[Symbol.dispose]();
        throw error;
      }
    } catch (cause) {
      throw TorporError.from(cause, "network.failed", "making the sandbox's network");
    }
  }

  /** Opens the network of a VM that is already running. */
  static ofProcess(pid: number, addressing: GuestAddressing, outside: Outside): GuestNetwork {
    return new NamespaceNetwork(NetworkNamespace.ofProcess(pid), addressing, outside);
  }

  dial(guestPort: number): Socket {
    const fd = this.#namespace.enter(openTcpSocket);
    return new Socket({ fd }).connect(guestPort, this.#guestAddress);
  }

  setPolicy(policy: NetworkPolicy): void {
    if (this.#egress !== undefined) this.#egress.setPolicy(policy);
    else if (!isClosed(policy)) throw unenforceable(this.noInternet ?? "");
  }

  [Symbol.dispose](): void {
    this.#egress?.[Symbol.dispose]();
    this.#namespace[Symbol.dispose]();
  }
}

function prepareTap(addressing: GuestAddressing): number {
  // Guests speak IPv4 only; otherwise the host's IPv6 announcements would be the first thing a
  // guest handles.
  writeFileSync("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
  for (const [name, value] of Object.entries(answering)) {
    writeFileSync(`/proc/sys/net/ipv4/${name}`, value);
  }
  bringUp("lo", "127.0.0.1", 8);
  routeEverythingHere();
  const tapFd = openTap(tapName);
  try {
    setHardwareAddress(tapName, gatewayMac);
    bringUp(tapName, addressing.gatewayAddress, addressing.guestPrefixBits);
    pinNeighbour(tapName, addressing.guestAddress, addressing.guestMac);
    return tapFd;
  } catch (error) {
    closeSync(tapFd);
    throw error;
  }
}

function tapAttachment(namespace: NetworkNamespace, tapFd: number): Attachment {
  let open = true;
  const close = (): void => {
    if (open) closeSync(tapFd);
    open = false;
  };
  return {
    kind: "tap",
    tapFd,
    tapName,
    detachTap: () => {
      if (open) keepTap(tapFd);
      close();
    },
    inNamespace: (work) => namespace.enter(work),
    [Symbol.dispose]: close,
  };
}
