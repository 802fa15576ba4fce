import assert from "node:assert/strict";
import { test } from "node:test";
import { sandboxInfo } from "./fixtures.ts";
import { findSandbox } from "./sandbox-id.ts";

const sandboxes = ["iabc1", "iabc12", "ixyz9"].map((id) => sandboxInfo({ id }));

test("a prefix of one id names that sandbox", () => {
  assert.equal(findSandbox("ixy", sandboxes)?.id, "ixyz9");
});

test("a whole id wins over being a prefix of another", () => {
  assert.equal(findSandbox("iabc1", sandboxes)?.id, "iabc1");
});

test("an ambiguous prefix lists what it may mean", () => {
  assert.throws(() => findSandbox("iab", sandboxes), {
    code: "argument.invalid",
    rawMessage: "iab may mean any of iabc1, iabc12",
  });
});

test("a prefix must have three characters", () => {
  assert.throws(() => findSandbox("ix", sandboxes), { code: "argument.invalid" });
});

test("an unknown id is not found", () => {
  assert.equal(findSandbox("iqqq", sandboxes), undefined);
});
