/**
 * A client's request for a sandbox's network, kept in the sandbox's record for building that network.
 */
import type { EgressRequest } from "@torpor/network";

/** A complete request: what the sandbox may reach, and who may reach the sandbox. */
export interface NetworkRequest extends EgressRequest {
  /** Null: not specified. False: the sandbox reaches only what `allowOut` names. */
  readonly allowInternetAccess: boolean | null;
  /** IPv4 addresses, CIDR blocks, domains, `*.domain`. They win over `denyOut`. */
  readonly allowOut: readonly string[];
  /** IPv4 addresses and CIDR blocks. */
  readonly denyOut: readonly string[];
  /** False: ports of the guest require the traffic token from clients. */
  readonly allowPublicTraffic: boolean;
  /**
   * The `Host` header that the guest receives; `${PORT}` stands for the port. Null: the client's
   * own.
   */
  readonly maskRequestHost: string | null;
}

/** A request for nothing in particular: the defaults. */
export const openNetwork: NetworkRequest = {
  allowInternetAccess: null,
  allowOut: [],
  denyOut: [],
  allowPublicTraffic: true,
  maskRequestHost: null,
};
