import assert from "node:assert/strict";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import type { VmmIdentity } from "./driver.ts";
import { assertLoadable, assertSameMachine, cpuFingerprint } from "./identity.ts";

const saved: VmmIdentity = {
  vmm: "qemu",
  version: "10.0.2",
  accelerator: "kvm",
  cpuFingerprint: "a".repeat(64),
  tscKhz: 2_000_000,
};

function refusalOf(here: Partial<VmmIdentity>): string | undefined {
  try {
    assertLoadable(saved, { ...saved, ...here });
    return undefined;
  } catch (error) {
    assert.ok(TorporError.is(error) && error.code === "snapshot.incompatible");
    return error.rawMessage;
  }
}

test("assertLoadable() accepts the same VMM on the same processor", () => {
  assert.equal(refusalOf({}), undefined);
});

const differences: readonly (readonly [string, Partial<VmmIdentity>, RegExp])[] = [
  ["VMM", { vmm: "firecracker" }, /VMM was qemu 10\.0\.2, here it is firecracker 10\.0\.2/],
  ["version", { version: "10.0.3" }, /VMM was qemu 10\.0\.2, here it is qemu 10\.0\.3/],
  ["accelerator", { accelerator: "tcg" }, /accelerator was kvm, here it is tcg/],
  ["CPU", { cpuFingerprint: "b".repeat(64) }, /CPU was a{12}, here it is b{12}/],
  ["faster timestamp counter", { tscKhz: 2_002_001 }, /counter was 2000000 kHz/],
  ["slower timestamp counter", { tscKhz: 1_997_999 }, /here it is 1997999 kHz/],
];

for (const [what, here, message] of differences) {
  test(`assertLoadable() refuses another ${what} and names it`, () => {
    assert.match(refusalOf(here) ?? "", message);
  });
}

test("assertLoadable() takes a timestamp counter within a thousandth for the same", () => {
  assert.equal(refusalOf({ tscKhz: 2_002_000 }), undefined);
  assert.equal(refusalOf({ tscKhz: 1_998_000 }), undefined);
});

test("assertLoadable() names all differences at once", () => {
  const message = refusalOf({ version: "11", accelerator: "tcg" });
  assert.match(message ?? "", /qemu 11; accelerator was kvm/);
});

test("assertSameMachine() refuses a machine that the guest would see change", () => {
  assertSameMachine(["-machine", "microvm"], ["-machine", "microvm"]);
  for (const here of [["-machine", "q35"], ["-machine"], []]) {
    assert.throws(
      () => assertSameMachine(["-machine", "microvm"], here),
      (error) => TorporError.is(error) && error.code === "snapshot.incompatible",
    );
  }
});

test("the fingerprint of this machine's CPU is the same each time", async () => {
  const fingerprint = await cpuFingerprint();
  assert.match(fingerprint, /^[0-9a-f]{64}$/);
  assert.equal(await cpuFingerprint(), fingerprint);
});
