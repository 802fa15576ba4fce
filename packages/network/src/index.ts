export { egressProblem } from "./egress-problem.ts";
export type { GuestNetwork, NetworkHandle, NewGuestNetwork } from "./guest-network.ts";
export {
  type NetworkPolicy,
  type EgressRequest,
  closedPolicy,
  openPolicy,
  parseNetworkPolicy,
} from "./network-policy.ts";
export {
  type NetworkKind,
  createNetwork,
  defaultNetworkKind,
  reachNetwork,
} from "./open-network.ts";
export { type Outside, type ResolvedAddress, hostOutside } from "./outside.ts";
