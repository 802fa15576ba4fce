/**
 * Counts exchanges in progress: of each sandbox, of each client's address, and in all. An exchange
 * beyond a share is refused before it costs anything.
 */
import type { EdgeLimits } from "./limits.ts";

/** The share that is used up. */
export type Excess = "sandbox" | "address" | "all";

/** An exchange that wants a place. */
export interface Claim {
  readonly sandboxId: string;
  /** Undefined on the Unix socket, whose user is the daemon's owner. */
  readonly address: string | undefined;
  /**
   * Whether the request carries the sandbox's token. Called only if a request without one would be
   * refused.
   */
  readonly hasToken: () => boolean;
}

/** The places that exchanges hold. */
export class Shares {
  readonly #limits: EdgeLimits;
  readonly #all = new Counts();
  readonly #strangers = new Counts();
  /** Strangers by their addresses. */
  readonly #addresses = new Counts();

  constructor(limits: EdgeLimits) {
    this.#limits = limits;
  }

  /** Takes a place, or returns the share that is used up. Disposing the place frees it. */
  take(claim: Claim): Disposable | Excess {
    const { exchanges, exchangesPerSandbox } = this.#limits;
    if (this.#all.total >= exchanges) return "all";
    if (this.#all.of(claim.sandboxId) >= exchangesPerSandbox) return "sandbox";
    const excess = this.#excessOfStranger(claim);
    if (excess !== undefined && claim.address !== undefined && !claim.hasToken()) return excess;
    const places = new DisposableStack();
    places.use(this.#all.add(claim.sandboxId));
    if (excess === undefined) {
      const address = countedAddress(claim.address);
      places.use(this.#strangers.add(claim.sandboxId));
      if (address !== undefined) places.use(this.#addresses.add(address));
    }
    return places;
  }

  #excessOfStranger({ sandboxId, address }: Claim): Excess | undefined {
    const { strangers, strangersPerSandbox, strangersPerAddress } = this.#limits;
    if (this.#strangers.total >= strangers) return "all";
    if (this.#strangers.of(sandboxId) >= strangersPerSandbox) return "sandbox";
    const counted = countedAddress(address);
    const isFull = counted !== undefined && this.#addresses.of(counted) >= strangersPerAddress;
    return isFull ? "address" : undefined;
  }
}

/** Counts by name; a name is forgotten at 0. */
export class Counts {
  readonly #counts = new Map<string, number>();
  total = 0;

  of(name: string): number {
    return this.#counts.get(name) ?? 0;
  }

  /** Counts one more. Disposing the result counts it off again; safe to repeat. */
  add(name: string): Disposable {
    this.#change(name, 1);
    let isOver = false;
    return {
      [Symbol.dispose]: () => {
        if (!isOver) this.#change(name, -1);
        isOver = true;
      },
    };
  }

  #change(name: string, by: number): void {
    const count = this.of(name) + by;
    this.total += by;
    if (count === 0) this.#counts.delete(name);
    else this.#counts.set(name, count);
  }
}

/**
 * The address that a client counts under. Undefined for the loopback: all clients of a proxy on
 * this machine come from there. An IPv6 address counts as its network of 64 bits, which a single
 * client has for itself (RFC 6177).
 */
export function countedAddress(address: string | undefined): string | undefined {
  const plain = address?.replace(/^::ffff:/i, "");
  if (plain === undefined || plain === "::1" || plain.startsWith("127.")) return undefined;
  if (!plain.includes(":")) return plain;
  const [head = "", tail] = plain.split("::");
  const groups = head.split(":");
  const missing = tail === undefined ? [] : ["0", "0", "0", "0"];
  return `${[...groups, ...missing].slice(0, 4).join(":")}::/64`;
}
