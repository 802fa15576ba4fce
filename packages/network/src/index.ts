export { egressProblem } from "./egress-problem.ts";
export type {
  Attachment,
  GuestAddressing,
  GuestNetwork,
  NetworkHandle,
  NewGuestNetwork,
} from "./guest-network.ts";
export {
  type EgressDecision,
  type NetworkPolicy,
  type NetworkRequest,
  closedPolicy,
  decideEgress,
  isClosed,
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
