/** What a client asks of a sandbox's network; kept in its record, for whoever builds that network. */
import type { EgressRequest } from "@torpor/network";

/** All of it is said: what may be reached, and who may reach the sandbox. */
export interface NetworkRequest extends EgressRequest {
  /** Null: not said. False: nothing is reached but what `allowOut` names. */
  readonly allowInternetAccess: boolean | null;
  /** IPv4 addresses, CIDR blocks, domains, `*.domain`. They win over `denyOut`. */
  readonly allowOut: readonly string[];
  /** IPv4 addresses and CIDR blocks. */
  readonly denyOut: readonly string[];
  /** False: ports of the guest ask clients for the traffic token. */
  readonly allowPublicTraffic: boolean;
  /** The `Host` that the guest is told; `${PORT}` stands for the port. Null: the client's own. */
  readonly maskRequestHost: string | null;
}

/** Asks for nothing. */
export const openNetwork: NetworkRequest = {
  allowInternetAccess: null,
  allowOut: [],
  denyOut: [],
  allowPublicTraffic: true,
  maskRequestHost: null,
};
