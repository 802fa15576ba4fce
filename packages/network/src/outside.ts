/** The internet as the host sees it. Tests put their own in its place. */
import { Resolver } from "node:dns/promises";
import { type Socket, connect } from "node:net";
import { networkInterfaces } from "node:os";

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
  /** At which the host itself is found. */
  ownAddresses(): readonly string[];
}

/** By the host's own routes and by the name servers in its resolv.conf. */
export function hostOutside(): Outside {
  const resolver = new Resolver({ timeout: resolveBudgetMs, tries: resolveTries });
  return {
    // The guest's end may be closed while there is still something to read for it.
    connect: (address, port) => connect({ host: address, port, allowHalfOpen: true }),
    resolve: async (name) => {
      const found = await resolver.resolve4(name, { ttl: true });
      return found.map(({ address, ttl }) => ({ address, ttlSeconds: ttl }));
    },
    ownAddresses: () =>
      Object.values(networkInterfaces()).flatMap((all) => (all ?? []).map((one) => one.address)),
  };
}
