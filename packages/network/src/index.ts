export { egressProblem } from "./egress-problem.ts";
export { type AddressRange, range } from "./address-range.ts";
export type { GuestNetwork, NetworkHandle, NewGuestNetwork } from "./guest-network.ts";
export {
  type NetworkPolicy,
  type EgressRequest,
  assertGrantable,
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
