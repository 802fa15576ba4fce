import assert from "node:assert/strict";
import { test } from "node:test";
import { readDaemonEnv } from "./daemon-env.ts";

test("without variables the daemon leaves its sandboxes, and saves in layers", () => {
  const { networkKind: _networkKind, ...rest } = readDaemonEnv({});
  assert.deepEqual(rest, { port: 7330, spareCount: 1, saveWhole: false, onStop: "leave" });
});

test("every variable is heeded", () => {
  const env = {
    TORPOR_PORT: "0",
    TORPOR_SPARES: "3",
    TORPOR_NETWORK: "user",
    TORPOR_SAVE: "whole",
    TORPOR_ON_STOP: "pause",
  };
  assert.deepEqual(readDaemonEnv(env), {
    port: 0,
    spareCount: 3,
    networkKind: "user",
    saveWhole: true,
    onStop: "pause",
  });
});

test("a wrong one is named", () => {
  for (const name of ["PORT", "SPARES", "NETWORK", "SAVE", "ON_STOP"]) {
    assert.throws(() => readDaemonEnv({ [`TORPOR_${name}`]: "x" }), {
      code: "argument.invalid",
      rawMessage: new RegExp(`^TORPOR_${name} must be`),
    });
  }
});
