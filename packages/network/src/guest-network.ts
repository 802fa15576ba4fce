/**
 * How one sandbox's guest is connected, and how the host dials it.
 *
 * Every guest has the same address and MAC, so that a restored or forked memory needs no change;
 * guests are kept apart because each has a network of its own. As root that is a namespace with one
 * TAP device; without root it is QEMU's user-mode network, closed to the outside, with one port of
 * the host's loopback leading to the guest's agent.
 *
 * Neither kind leads to another sandbox or to an address of the host. A namespace leads to the
 * internet as far as the sandbox's policy allows (see egress.ts); the user-mode network leads
 * nowhere.
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

/**
 * The network as the VMM receives it. `Symbol.dispose` closes the TAP descriptor; call it once the
 * VM has its own copy.
 */
export type Attachment =
  | ({
      readonly kind: "tap";
      readonly tapFd: number;
      readonly tapName: string;
      /** Closes the descriptor; the device stays in the namespace, to be opened by its name. */
      detachTap(): void;
      /** Runs `work` with this thread inside the namespace. */
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

/**
 * The data that a later process needs to reach the same guest again; plain data, stored with the
 * sandbox.
 */
export type NetworkHandle =
  { readonly kind: "namespace" } | { readonly kind: "user"; readonly hostPort: number };

/** The network of one guest. Disposing of it ends this process's use of it. */
export interface GuestNetwork extends Disposable {
  readonly handle: NetworkHandle;
  /**
   * Why the guest cannot reach the internet on this network, whatever its policy; undefined if it
   * can.
   */
  readonly noInternet: string | undefined;
  /**
   * Applies a policy from now on; until the first call the guest reaches nothing. Open connections
   * that it does not allow are reset.
   * @throws network.unenforceable for a policy that this network cannot enforce.
   */
  setPolicy(policy: NetworkPolicy): void;
  /**
   * Returns a TCP socket that is connecting to a port of the guest. Errors arrive on the socket.
   * @throws network.failed if this kind of network cannot reach that port.
   */
  dial(guestPort: number): Socket;
}

/** The network of a VM that is about to start. */
export interface NewGuestNetwork extends GuestNetwork {
  /** To be given to the VMM. */
  readonly attachment: Attachment;
}
