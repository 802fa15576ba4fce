/** Chooses the kind of guest network, makes new ones and reaches the ones of running VMs. */
import { assertNever } from "@torpor/std";
import type {
  GuestAddressing,
  GuestNetwork,
  NetworkHandle,
  NewGuestNetwork,
} from "./guest-network.ts";
import { NamespaceNetwork } from "./namespace-network.ts";
import { type Outside, hostOutside } from "./outside.ts";
import { UserNetwork } from "./user-network.ts";

export type NetworkKind = NetworkHandle["kind"];

/** A namespace as root, QEMU's user network otherwise. */
export function defaultNetworkKind(): NetworkKind {
  return process.getuid?.() === 0 ? "namespace" : "user";
}

/** @throws network.failed */
export async function createNetwork(
  kind: NetworkKind,
  addressing: GuestAddressing,
  outside: Outside = hostOutside(),
): Promise<NewGuestNetwork> {
  switch (kind) {
    case "namespace":
      return NamespaceNetwork.create(addressing, outside);
    case "user":
      return await UserNetwork.create(addressing);
    default:
      return assertNever(kind);
  }
}

/** The network of a VM that an earlier process started. */
export function reachNetwork(
  handle: NetworkHandle,
  vmPid: number,
  addressing: GuestAddressing,
  outside: Outside = hostOutside(),
): GuestNetwork {
  switch (handle.kind) {
    case "namespace":
      return NamespaceNetwork.ofProcess(vmPid, addressing, outside);
    case "user":
      return new UserNetwork(handle.hostPort, addressing.agentPort);
    default:
      return assertNever(handle);
  }
}
