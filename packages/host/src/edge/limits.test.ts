import assert from "node:assert/strict";
import { test } from "node:test";
import { limitsFor } from "./limits.ts";
import { type Claim, Shares, countedAddress } from "./shares.ts";

for (const descriptors of [256, 1_024, 4_096, 20_000, 524_288, 1_048_576]) {
  test(`the limits of a process with ${descriptors} descriptors leave the daemon its part`, () => {
    const limits = limitsFor(descriptors);
    // Each connection of a client's is one, and each exchange one more, to the guest.
    assert.ok(limits.connections + limits.exchanges <= descriptors * (5 / 8));
    assert.ok(limits.exchanges < limits.connections);
    assert.ok(limits.exchangesPerSandbox <= Math.ceil(limits.exchanges / 4));
    assert.ok(limits.exchangesPerSandbox <= 10_000);
    assert.ok(limits.strangers <= Math.ceil(limits.exchanges / 2));
    assert.ok(limits.strangersPerSandbox <= Math.ceil(limits.exchangesPerSandbox / 2));
    for (const limit of Object.values(limits)) assert.ok(limit > 0);
  });
}

function claim(sandboxId: string, address: string | undefined, hasToken = false): Claim {
  return { sandboxId, address, hasToken: () => hasToken };
}

/** As many as are given. */
function takeAll(shares: Shares, one: Claim): { readonly count: number; readonly excess: string } {
  for (let count = 0; ; count += 1) {
    const taken = shares.take(one);
    if (typeof taken === "string") return { count, excess: taken };
  }
}

const limits = limitsFor(3_200);

test("strangers get half of a sandbox's share, and who has its token all of it", () => {
  const shares = new Shares(limits);
  const strangers = takeAll(shares, claim("a", "127.0.0.1"));
  assert.deepEqual(strangers, { count: limits.strangersPerSandbox, excess: "sandbox" });
  const owner = takeAll(shares, claim("a", "127.0.0.1", true));
  const left = limits.exchangesPerSandbox - limits.strangersPerSandbox;
  assert.deepEqual(owner, { count: left, excess: "sandbox" });
  assert.equal(takeAll(shares, claim("b", "127.0.0.1")).count, limits.strangersPerSandbox);
});

test("strangers get half of all, and who has a token, or the daemon's socket, is served on", () => {
  const shares = new Shares(limits);
  let count = 0;
  let excess = "";
  for (let index = 0; excess !== "all"; index += 1) {
    const taken = takeAll(shares, claim(`i${index}`, "127.0.0.1"));
    count += taken.count;
    ({ excess } = taken);
  }
  assert.equal(count, limits.strangers);
  assert.equal(shares.take(claim("late", "127.0.0.1")), "all");
  assert.equal(typeof shares.take(claim("late", "127.0.0.1", true)), "object");
  assert.equal(typeof shares.take(claim("late", undefined)), "object");
});

test("one address gets its share of all sandboxes, and the loopback has none of its own", () => {
  const shares = new Shares(limits);
  let count = 0;
  for (let index = 0; count < limits.strangersPerAddress; index += 1) {
    count += takeAll(shares, claim(`i${index}`, "203.0.113.7")).count;
  }
  assert.equal(shares.take(claim("late", "203.0.113.7")), "address");
  assert.equal(shares.take(claim("late", "::ffff:203.0.113.7")), "address");
  for (const one of [claim("late", "203.0.113.8"), claim("late", "203.0.113.7", true)]) {
    assert.equal(typeof shares.take(one), "object");
  }
});

test("a place that is given back is free again, once", () => {
  const shares = new Shares(limits);
  const first = shares.take(claim("a", "203.0.113.7"));
  assert.ok(typeof first === "object");
  takeAll(shares, claim("a", "203.0.113.7"));
  first[Symbol.dispose]();
  first[Symbol.dispose]();
  assert.equal(takeAll(shares, claim("a", "203.0.113.7")).count, 1);
});

const addresses: readonly (readonly [string | undefined, string | undefined])[] = [
  [undefined, undefined],
  ["127.0.0.1", undefined],
  ["127.8.9.1", undefined],
  ["::1", undefined],
  ["::ffff:127.0.0.1", undefined],
  ["203.0.113.7", "203.0.113.7"],
  ["::ffff:203.0.113.7", "203.0.113.7"],
  ["2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"],
  ["2001:db8:1:2::9", "2001:db8:1:2::/64"],
  ["2001:db8::9", "2001:db8:0:0::/64"],
  ["fe80::1", "fe80:0:0:0::/64"],
];

for (const [address, counted] of addresses) {
  test(`countedAddress() of ${address} is ${counted}`, () => {
    assert.equal(countedAddress(address), counted);
  });
}
