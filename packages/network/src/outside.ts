/** The internet as the host sees it. Tests put their own in its place. */
import { Resolver } from "node:dns/promises";
import { type Socket, connect } from "node:net";
import { NearNetworks } from "@torpor/native";
import type { AddressRange } from "./address-range.ts";

const resolveBudgetMs = 2_500;
const resolveTries = 2;

export interface ResolvedAddress {
  readonly address: string;
  readonly ttlSeconds: number;
}

export interface Outside {
  /** Errors arrive on the socket. */
  connect(address: string, port: number): Socket;
  /** IPv4 addresses; none for a name that has none. @throws what the resolver throws */
  resolve(name: string): Promise<readonly ResolvedAddress[]>;
  /**
   * The host's own addresses and the networks that it is on, as they are now; the same array for as long as
   * they are the same. @throws a system error
   */
  nearRanges(): readonly AddressRange[];
}

/** By the host's own routes and by the name servers in its resolv.conf. */
export function hostOutside(): Outside & Disposable {
  let networks: NearNetworks | undefined;
  const resolver = new Resolver({ timeout: resolveBudgetMs, tries: resolveTries });
  return {
    // The guest's end may be closed while there is still something to read for it.
    connect: (address, port) => connect({ host: address, port, allowHalfOpen: true }),
    resolve: async (name) => {
      const found = await resolver.resolve4(name, { ttl: true });
      return found.map(({ address, ttl }) => ({ address, ttlSeconds: ttl }));
    },
    nearRanges: () => (networks ??= new NearNetworks()).read(),
    [Symbol.dispose]: () => networks?.[Symbol.dispose](),
  };
}
