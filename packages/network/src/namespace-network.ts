/**
 * A guest network in a namespace of its own (needs root).
 *
 * The namespace has no name: it is held by the VM process that is started inside it and ends with
 * it, so there is nothing to clean up after a crash. The daemon holds a descriptor while it runs and
 * finds the namespace again through the VM's pid.
 */
import { closeSync, writeFileSync } from "node:fs";
import { Socket } from "node:net";
import {
  NetworkNamespace,
  bringUp,
  openTap,
  openTcpSocket,
  pinNeighbour,
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

const tapName = "tap0";
/** The host's end of every guest's network; the same in each, because guests remember it. */
const gatewayMac = "02:54:4f:52:47:57";

export class NamespaceNetwork implements GuestNetwork {
  readonly handle: NetworkHandle = { kind: "namespace" };
  readonly #namespace: NetworkNamespace;
  readonly #guestAddress: string;

  private constructor(namespace: NetworkNamespace, guestAddress: string) {
    this.#namespace = namespace;
    this.#guestAddress = guestAddress;
  }

  /** @throws network.failed when the kernel refuses, for want of root or of /dev/net/tun. */
  static create(addressing: GuestAddressing): NewGuestNetwork {
    try {
      const namespace = NetworkNamespace.create();
      try {
        const tapFd = namespace.enter(() => prepareTap(addressing));
        const network = new NamespaceNetwork(namespace, addressing.guestAddress);
        return Object.assign(network, { attachment: tapAttachment(namespace, tapFd) });
      } catch (error) {
        namespace[Symbol.dispose]();
        throw error;
      }
    } catch (cause) {
      throw TorporError.from(cause, "network.failed", "making the sandbox's network");
    }
  }

  /** Reaches the network of a VM that is already running. */
  static ofProcess(pid: number, addressing: GuestAddressing): GuestNetwork {
    return new NamespaceNetwork(NetworkNamespace.ofProcess(pid), addressing.guestAddress);
  }

  dial(guestPort: number): Socket {
    const fd = this.#namespace.enter(openTcpSocket);
    return new Socket({ fd }).connect(guestPort, this.#guestAddress);
  }

  [Symbol.dispose](): void {
    this.#namespace[Symbol.dispose]();
  }
}

function prepareTap(addressing: GuestAddressing): number {
  // Guests speak IPv4 only; the host's own announcements would be the first thing a guest handles.
  writeFileSync("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1");
  bringUp("lo", "127.0.0.1", 8);
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
  return {
    kind: "tap",
    tapFd,
    inNamespace: (work) => namespace.enter(work),
    [Symbol.dispose]: () => {
      if (open) closeSync(tapFd);
      open = false;
    },
  };
}
