/** Uses real answers of the kernel, in namespaces of the test's own: the machine is not changed. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { closeSync } from "node:fs";
import { test } from "node:test";
import { NearNetworks, nearNetworksOf } from "./near-networks.ts";
import { bringUp, openTap } from "./network-device.ts";
import { NetworkNamespace } from "./network-namespace.ts";

const hasIp = spawnSync("ip", ["-V"]).status === 0;
const isRoot = process.getuid?.() === 0;
const asRoot = { skip: isRoot ? false : "needs root" };
const withIp = { skip: isRoot && hasIp ? false : "needs root and iproute2" };

class Machine implements Disposable {
  readonly #undo = new DisposableStack();
  readonly #namespace = this.#undo.use(NetworkNamespace.create());
  readonly #networks = this.#undo.use(this.#namespace.enter(() => new NearNetworks()));

  /** A network card with an address. */
  addCard(name: string, address: string, prefixBits: number): Disposable {
    const fd = this.#namespace.enter(() => {
      const tap = openTap(name);
      bringUp(name, address, prefixBits);
      return tap;
    });
    const card = new DisposableStack();
    card.adopt(fd, closeSync);
    this.#undo.use(card);
    return card;
  }

  /** Each string holds the arguments of one `ip` command. */
  ip(...commands: readonly string[]): void {
    const input = commands.join("\n");
    const { status, stderr } = this.#namespace.enter(() =>
      spawnSync("ip", ["-batch", "-"], { input }),
    );
    assert.equal(status, 0, String(stderr));
  }

  get array(): readonly object[] {
    return this.#networks.read();
  }

  get near(): readonly string[] {
    return this.#networks
      .read()
      .map(({ address, prefixBits }) => {
        const bytes = [24, 16, 8, 0].map((shift) => (address >>> shift) & 0xff);
        return `${bytes.join(".")}/${prefixBits}`;
      })
      .sort();
  }

  [Symbol.dispose](): void {
    this.#undo.dispose();
  }
}

const ofCard = ["203.0.113.0/24", "203.0.113.255/32", "203.0.113.5/32"];

test(
  "a machine's own addresses and the networks it is on are near, as soon as they are and no longer",
  asRoot,
  () => {
    using machine = new Machine();
    assert.deepEqual(machine.near, []);
    using card = machine.addCard("card0", "203.0.113.5", 24);
    assert.deepEqual(machine.near, ofCard);
    machine.addCard("card1", "198.51.100.9", 30);
    const both = [...ofCard, "198.51.100.11/32", "198.51.100.8/30", "198.51.100.9/32"].sort();
    assert.deepEqual(machine.near, both);
    card[Symbol.dispose]();
    assert.deepEqual(
      machine.near,
      both.filter((one) => !ofCard.includes(one)),
    );
  },
);

test("what is near is read again only where something has changed", asRoot, () => {
  using machine = new Machine();
  machine.addCard("card0", "203.0.113.5", 24);
  const { array } = machine;
  assert.equal(machine.array, array);
  machine.addCard("card1", "198.51.100.9", 24);
  assert.notEqual(machine.array, array);
});

test("more changes than the kernel keeps for us are a change", withIp, () => {
  using machine = new Machine();
  machine.addCard("card0", "203.0.113.5", 24);
  assert.deepEqual(machine.near, ofCard);
  const flood = Array.from({ length: 4_000 }, (_, index) => {
    const verb = index % 2 === 0 ? "add" : "del";
    return `address ${verb} 192.0.2.1/32 dev card0`;
  });
  machine.ip(...flood, "address add 192.0.2.77/32 dev card0");
  assert.deepEqual(machine.near, [...ofCard, "192.0.2.77/32"].sort());
});

test(
  "routes without a router lead to neighbours, in every table, and a router is one",
  withIp,
  () => {
    using machine = new Machine();
    machine.addCard("card0", "203.0.113.5", 24);
    machine.ip("route add 198.51.100.0/25 dev card0");
    machine.ip("route add 192.0.2.0/28 dev card0 table 77");
    machine.ip("route add 192.0.2.128/32 nexthop dev card0 nexthop dev card0 weight 2");
    // Somewhere else on the internet: not near, but its router is.
    machine.ip("route add 8.0.0.0/8 via 203.0.113.1 dev card0");
    machine.ip("route add 9.9.9.0/24 via 100.100.100.100 dev card0 onlink");
    machine.ip("route add default dev card0 table 78");
    machine.ip("route add 0.0.0.0/1 dev card0");
    machine.ip("route add unreachable 9.8.7.0/24");
    const routed = [
      "100.100.100.100/32",
      "192.0.2.0/28",
      "192.0.2.128/32",
      "198.51.100.0/25",
      "203.0.113.1/32",
    ];
    assert.deepEqual(machine.near, [...ofCard, ...routed].sort());
    machine.ip("link set card0 down");
    machine.ip("address flush dev card0");
    machine.ip("route flush table 77");
    assert.deepEqual(machine.near, []);
  },
);

test("the far end of a point-to-point link is near", withIp, () => {
  using machine = new Machine();
  machine.addCard("card0", "203.0.113.5", 24);
  machine.ip("address add 198.51.100.1 peer 192.0.2.200/32 dev card0");
  assert.deepEqual(machine.near, [...ofCard, "192.0.2.200/32", "198.51.100.1/32"].sort());
});

test("nearNetworksOf() reads no message beyond its end, whatever it holds", () => {
  let seed = 1;
  const next = (): number => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) >>> 0;
    return seed >>> 16;
  };
  for (let count = 0; count < 20_000; count += 1) {
    const message = Buffer.from(Array.from({ length: 16 + (next() % 64) }, () => next() & 0xff));
    message.writeUInt16LE(count % 2 === 0 ? 20 : 24, 4);
    if (message.length > 16) message.writeUInt8(2, 16);
    for (const { prefixBits } of nearNetworksOf(message)) assert.ok(prefixBits >= 8);
  }
});
