/**
 * Whether sandboxes on this machine can reach the internet, found by trying it in a temporary
 * namespace.
 */
import { NetworkNamespace, bringUp, routeEverythingHere } from "@torpor/native";
import { TorporError } from "@torpor/std";
import { Egress } from "./egress.ts";
import { openPolicy } from "./network-policy.ts";
import { hostOutside } from "./outside.ts";

const address = "127.0.0.1";

/** Returns why sandboxes cannot reach the internet, or undefined when they can. */
export function egressProblem(): string | undefined {
  try {
    using namespace = NetworkNamespace.create();
    namespace.enter(() => {
      bringUp("lo", address, 8);
      routeEverythingHere();
    });
    using outside = hostOutside();
    using egress = new Egress(namespace, address, outside);
    egress.setPolicy(openPolicy);
    return undefined;
  } catch (cause) {
    return TorporError.from(cause, "network.failed").rawMessage;
  }
}
