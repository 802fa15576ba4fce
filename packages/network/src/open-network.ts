/** Chooses the kind of guest network, makes new networks and opens those of running VMs. */
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

/** `namespace` needs root; `user` is QEMU's user-mode network. */
export type NetworkKind = NetworkHandle["kind"];

/** Returns "namespace" as root, "user" otherwise. */
export function defaultNetworkKind(): NetworkKind {
  return process.getuid?.() === 0 ? "namespace" : "user";
}

/** Makes the network of a VM that is about to start. @throws network.failed */
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

/** Opens the network of a VM that an earlier process started. */
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
