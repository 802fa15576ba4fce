export type {
  Attachment,
  GuestAddressing,
  GuestNetwork,
  NetworkHandle,
  NewGuestNetwork,
} from "./guest-network.ts";
export {
  type NetworkKind,
  createNetwork,
  defaultNetworkKind,
  reachNetwork,
} from "./open-network.ts";
