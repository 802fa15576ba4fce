import assert from "node:assert/strict";
import { test } from "node:test";
import { systemCode } from "@torpor/std";
import { setWallClock } from "./clock.ts";

test("setWallClock() reports the kernel's refusal of a time before 1970", () => {
  assert.throws(
    () => setWallClock(-5_000),
    (error) => systemCode(error) === "EINVAL" || systemCode(error) === "EPERM",
  );
});
