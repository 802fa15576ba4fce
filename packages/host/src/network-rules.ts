/**
 * What a sandbox may reach: the one place where what was asked for, as its record keeps it, becomes the
 * policy of the network that it runs on. Called before its vCPUs are released, when a daemon takes it
 * over, and when somebody asks for something else, which is checked first.
 */
import {
  type GuestNetwork,
  type NetworkPolicy,
  type EgressRequest,
  type Outside,
  assertGrantable,
  closedPolicy,
  openPolicy,
  parseNetworkPolicy,
} from "@torpor/network";

/** @throws argument.invalid; network.unenforceable when the network cannot give what was asked for */
export function applyNetwork(
  network: Pick<GuestNetwork, "noInternet" | "setPolicy">,
  request: EgressRequest | null,
): void {
  network.setPolicy(policyOf(request, network.noInternet));
}

/**
 * Of what somebody asks for now, before anything is made or changed for it.
 * @throws argument.invalid for a rule that makes no sense, and for one that no sandbox can be given
 */
export function checkNetwork(
  request: EgressRequest | null | undefined,
  outside: Pick<Outside, "nearRanges">,
): void {
  const policy = parseNetworkPolicy(request ?? {});
  if (policy.allow.length > 0) assertGrantable(policy, outside.nearRanges());
}

/** Who asked for nothing gets the internet where there is a way to it, and no failure where there is none. */
function policyOf(request: EgressRequest | null, noInternet: string | undefined): NetworkPolicy {
  if (request !== null && asksForSome(request)) return parseNetworkPolicy(request);
  return noInternet === undefined ? openPolicy : closedPolicy;
}

/** Whether anything is said about what the guest may reach, and not only about who may reach it. */
function asksForSome({ allowInternetAccess, allowOut, denyOut }: EgressRequest): boolean {
  const lists = [...(allowOut ?? []), ...(denyOut ?? [])];
  return (allowInternetAccess ?? null) !== null || lists.length > 0;
}
