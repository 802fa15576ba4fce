/** The addresses that every guest is built with, as the network package wants them. */
import type { GuestAddressing } from "@torpor/network";
import {
  agentPort,
  gatewayAddress,
  guestAddress,
  guestMac,
  guestPrefixBits,
} from "@torpor/protocol";

export const addressing: GuestAddressing = {
  guestAddress,
  gatewayAddress,
  guestPrefixBits,
  guestMac,
  agentPort,
};
