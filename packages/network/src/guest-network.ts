/**
 * How one sandbox's guest is connected, and how the host dials it.
 *
 * Every guest has the same address and MAC, so that a restored or forked memory needs no change;
 * what keeps guests apart is that each has a network of its own. As root that is a namespace with
 * one TAP device; without root it is QEMU's user-mode network, closed to the outside, with one port
 * of the host's loopback leading to the guest's agent.
 *
 * Neither kind leads to another sandbox or to an address of the host. A namespace leads to the internet
 * as far as the sandbox's policy says (see egress.ts); the user-mode network leads nowhere.
 */
import type { Socket } from "node:net";
import type { NetworkPolicy } from "./network-policy.ts";

/** The addresses inside every guest's network. */
export interface GuestAddressing {
  readonly guestAddress: string;
  readonly gatewayAddress: string;
  readonly guestPrefixBits: number;
  readonly guestMac: string;
  /** The one port that the user-mode network forwards. */
  readonly agentPort: number;
}

/** Handed to the VMM; its TAP descriptor is closed by `Symbol.dispose` once the VM has its copy. */
export type Attachment =
  | ({
      readonly kind: "tap";
      readonly tapFd: number;
      readonly tapName: string;
      /** Closes the descriptor; the device stays in the namespace, for whoever opens it by its name. */
      detachTap(): void;
      inNamespace<T>(work: () => T): T;
    } & Disposable)
  | ({
      readonly kind: "user";
      readonly guestAddress: string;
      readonly gatewayAddress: string;
      readonly guestPrefixBits: number;
      readonly hostPort: number;
      readonly guestPort: number;
    } & Disposable);

/** What a later process needs to reach the same guest again; plain data, kept in the record. */
export type NetworkHandle =
  { readonly kind: "namespace" } | { readonly kind: "user"; readonly hostPort: number };

export interface GuestNetwork extends Disposable {
  readonly handle: NetworkHandle;
  /** Why the guest cannot reach the internet on this network, whatever its policy; undefined when it can. */
  readonly noInternet: string | undefined;
  /**
   * From now on; until the first one the guest reaches nothing. Open connections that it does not allow
   * are reset.
   * @throws network.unenforceable for a policy that this network cannot give.
   */
  setPolicy(policy: NetworkPolicy): void;
  /**
   * A TCP socket on its way to a port of the guest. Errors arrive on the socket.
   * @throws network.failed when this kind of network cannot reach that port.
   */
  dial(guestPort: number): Socket;
}

export interface NewGuestNetwork extends GuestNetwork {
  readonly attachment: Attachment;
}
