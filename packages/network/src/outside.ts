/** The internet as the host sees it. Tests supply their own implementation. */
import { Resolver } from "node:dns/promises";
import { type Socket, connect } from "node:net";
import { NearNetworks } from "@torpor/native";
import type { AddressRange } from "./address-range.ts";

const resolveBudgetMs = 2_500;
const resolveTries = 2;

/** An IPv4 address of a name, as the resolver returned it. */
export interface ResolvedAddress {
  readonly address: string;
  readonly ttlSeconds: number;
}

/** Access to the internet and to what is known of the host's own networks. */
export interface Outside {
  /** Returns a socket that is connecting. Errors arrive on the socket. */
  connect(address: string, port: number): Socket;
  /**
   * IPv4 addresses. A name without any gives an empty list, or the resolver's error ENODATA.
   * @throws what the resolver throws
   */
  resolve(name: string): Promise<readonly ResolvedAddress[]>;
  /**
   * The host's own addresses and the networks that it is on, as they are now; the same array as
   * long as they do not change.
   * @throws a system error
   */
  nearRanges(): readonly AddressRange[];
}

/** Connects over the host's own routes and resolves with the name servers in its resolv.conf. */
export function hostOutside(): Outside & Disposable {
  let networks: NearNetworks | undefined;
  const resolver = new Resolver({ timeout: resolveBudgetMs, tries: resolveTries });
  return {
    // The guest may close its end while there is still data for it to read.
    connect: (address, port) => connect({ host: address, port, allowHalfOpen: true }),
    resolve: async (name) => {
      const found = await resolver.resolve4(name, { ttl: true });
      return found.map(({ address, ttl }) => ({ address, ttlSeconds: ttl }));
    },
    nearRanges: () => (networks ??= new NearNetworks()).read(),
    [Symbol.dispose]: () => networks?.[Symbol.dispose](),
  };
}
