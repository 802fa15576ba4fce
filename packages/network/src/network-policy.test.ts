import assert from "node:assert/strict";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { range } from "./address-range.ts";
import {
  type EgressDecision,
  type EgressRequest,
  assertGrantable,
  decideEgress,
  isClosed,
  mayResolve,
  parseNetworkPolicy,
  policyEntriesMax,
} from "./network-policy.ts";

interface Case {
  readonly what: string;
  readonly request: EgressRequest;
  readonly decisions: Readonly<Record<string, EgressDecision>>;
}

const cases: readonly Case[] = [
  {
    what: "nothing asked: the internet, and nothing private",
    request: {},
    decisions: {
      "8.8.8.8:443": "allow",
      "203.0.113.7:22": "allow",
      "10.0.0.1:80": "deny",
      "100.64.0.1:80": "deny",
      "100.128.0.1:80": "allow",
      "127.0.0.1:80": "deny",
      "168.63.129.16:80": "deny",
      "169.254.169.254:80": "deny",
      "172.15.255.255:80": "allow",
      "172.16.0.0:80": "deny",
      "172.31.255.255:80": "deny",
      "172.32.0.0:80": "allow",
      "192.168.1.1:80": "deny",
      "224.0.0.1:80": "deny",
      "255.255.255.255:80": "deny",
      "0.0.0.0:80": "deny",
      "::1:80": "deny",
    },
  },
  {
    what: "no internet access",
    request: { allowInternetAccess: false },
    decisions: { "8.8.8.8:443": "deny", "10.0.0.1:80": "deny" },
  },
  {
    what: "allowing beats denying",
    request: { allowOut: ["203.0.113.7"], denyOut: ["203.0.113.0/24", "198.51.100.1"] },
    decisions: {
      "203.0.113.7:1": "allow",
      "203.0.113.8:1": "deny",
      "198.51.100.1:1": "deny",
      "198.51.100.2:1": "allow",
    },
  },
  {
    what: "allowing beats the denial of everything",
    request: { allowInternetAccess: false, allowOut: ["203.0.113.0/24"] },
    decisions: { "203.0.113.7:1": "allow", "198.51.100.1:1": "deny" },
  },
  {
    what: "nothing opens a private range",
    request: { allowOut: ["10.0.0.0/8", "169.254.169.254", "0.0.0.0/0"], denyOut: ["0.0.0.0/0"] },
    decisions: { "10.1.2.3:80": "deny", "169.254.169.254:80": "deny", "8.8.8.8:80": "allow" },
  },
  {
    what: "names open the ports that say them",
    request: { allowOut: ["example.com", "203.0.113.7"], denyOut: ["0.0.0.0/0"] },
    decisions: {
      "8.8.8.8:443": "inspect",
      "8.8.8.8:80": "inspect",
      "8.8.8.8:22": "deny",
      "203.0.113.7:443": "allow",
      "10.0.0.1:443": "deny",
    },
  },
];

for (const { what, request, decisions } of cases) {
  test(`decideEgress(): ${what}`, () => {
    const policy = parseNetworkPolicy(request);
    const made = Object.keys(decisions).map((target) => {
      const [, address = "", port = ""] = /^(.*):(\d+)$/.exec(target) ?? [];
      return [target, decideEgress(policy, address, Number(port))];
    });
    assert.deepEqual(Object.fromEntries(made), decisions);
  });
}

const wrong: Readonly<Record<string, EgressRequest>> = {
  "a name in denyOut": { denyOut: ["example.com"] },
  "a name while addresses are not denied": { allowOut: ["example.com"] },
  "a name while only some are denied": { allowOut: ["example.com"], denyOut: ["1.1.1.0/24"] },
  "an address with a wrong byte": { allowOut: ["1.2.3.256"] },
  "an address that some read as octal": { denyOut: ["010.0.0.1"] },
  "a prefix that is too long": { denyOut: ["1.2.3.4/33"] },
  "an address of IPv6": { denyOut: ["2001:db8::1"] },
  "a star in the middle": { allowOut: ["a.*.com"], denyOut: ["0.0.0.0/0"] },
  "an address with a port": { allowOut: ["1.2.3.4:80"] },
  "too many entries": { denyOut: Array.from({ length: policyEntriesMax + 1 }, () => "1.2.3.4") },
};

for (const [what, request] of Object.entries(wrong)) {
  test(`parseNetworkPolicy() refuses ${what}`, () => {
    assert.throws(
      () => parseNetworkPolicy(request),
      (error) => TorporError.is(error) && error.code === "argument.invalid",
    );
  });
}

const near = ["203.0.113.0/24", "198.51.100.9"].map(range);
const ungrantable = [
  "127.0.0.1/32",
  "127.0.0.1",
  "10.0.0.0/8",
  "10.1.2.3",
  "169.254.169.254",
  "0.0.0.0",
  "192.168.7.0/24",
  // It consists of two ranges that are each out of reach.
  "224.0.0.0/3",
  "203.0.113.0/24",
  "203.0.113.128/25",
  "203.0.113.7",
  "198.51.100.9",
];
const grantable = [
  "0.0.0.0/0",
  "8.8.8.8",
  "203.0.112.0/23",
  "198.51.100.8/31",
  "126.0.0.0/7",
  "172.0.0.0/8",
  "192.0.0.0/23",
];

for (const [entries, isRefused] of [
  [ungrantable, true],
  [grantable, false],
] as const) {
  for (const entry of entries) {
    test(`assertGrantable() ${isRefused ? "refuses" : "takes"} ${entry}`, () => {
      const policy = parseNetworkPolicy({ allowOut: ["9.9.9.9", entry] });
      const check = (): void => assertGrantable(policy, near);
      if (!isRefused) return check();
      assert.throws(check, (error) => {
        assert.ok(TorporError.is(error) && error.code === "argument.invalid");
        return error.rawMessage.includes(entry.replace("/32", ""));
      });
    });
  }
}

test("mayResolve(): any name where addresses decide, else allowed ones", () => {
  assert.ok(mayResolve(parseNetworkPolicy({ denyOut: ["1.1.1.1"] }), "anything.example"));
  assert.ok(!mayResolve(parseNetworkPolicy({ allowInternetAccess: false }), "example.com"));
  const policy = parseNetworkPolicy({
    allowOut: ["Example.com", "*.example.org"],
    denyOut: ["0.0.0.0/0"],
  });
  const names = ["example.com", "EXAMPLE.COM", "a.b.example.org", "example.org", "a.example.com"];
  assert.deepEqual(
    names.map((name) => mayResolve(policy, name)),
    [true, true, true, false, false],
  );
  assert.ok(!mayResolve(policy, "notexample.org"));
});

test("isClosed() is true only where nothing can be reached", () => {
  assert.ok(isClosed(parseNetworkPolicy({ allowInternetAccess: false })));
  assert.ok(isClosed(parseNetworkPolicy({ denyOut: ["0.0.0.0/0"] })));
  assert.ok(!isClosed(parseNetworkPolicy({})));
  assert.ok(!isClosed(parseNetworkPolicy({ denyOut: ["0.0.0.0/1", "128.0.0.0/1"] })));
  assert.ok(!isClosed(parseNetworkPolicy({ allowInternetAccess: false, allowOut: ["1.1.1.1"] })));
});
