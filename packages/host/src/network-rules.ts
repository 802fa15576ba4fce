/**
 * Turns what a record says was requested of a sandbox's network into the policy of the network that
 * it runs on; no other file does. It is called before the vCPUs are released, when a daemon adopts
 * the sandbox, and when a client changes the request, which is checked first.
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

/**
 * Sets the network's policy from the request.
 * @throws argument.invalid; network.unenforceable when the network cannot enforce the request
 */
export function applyNetwork(
  network: Pick<GuestNetwork, "noInternet" | "setPolicy">,
  request: EgressRequest | null,
): void {
  network.setPolicy(policyOf(request, network.noInternet));
}

/**
 * Checks a client's request before anything is created or changed for it.
 * @throws argument.invalid for a rule that makes no sense, and for one that no sandbox may have
 */
export function checkNetwork(
  request: EgressRequest | null | undefined,
  outside: Pick<Outside, "nearRanges">,
): void {
  const policy = parseNetworkPolicy(request ?? {});
  if (policy.allow.length > 0) assertGrantable(policy, outside.nearRanges());
}

/**
 * A sandbox that requested nothing gets the internet if the network leads there, and no failure if
 * not.
 */
function policyOf(request: EgressRequest | null, noInternet: string | undefined): NetworkPolicy {
  if (request !== null && asksForSome(request)) return parseNetworkPolicy(request);
  return noInternet === undefined ? openPolicy : closedPolicy;
}

/** Whether the request says what the guest may reach, and not only who may reach it. */
function asksForSome({ allowInternetAccess, allowOut, denyOut }: EgressRequest): boolean {
  const lists = [...(allowOut ?? []), ...(denyOut ?? [])];
  return (allowInternetAccess ?? null) !== null || lists.length > 0;
}
