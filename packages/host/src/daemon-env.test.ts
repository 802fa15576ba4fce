import assert from "node:assert/strict";
import { test } from "node:test";
import { settingNames, settings } from "@torpor/storage";
import { defaultUserIds } from "@torpor/vmm";
import { readDaemonEnv } from "./daemon-env.ts";

test("without variables the daemon leaves its sandboxes, and saves in layers", () => {
  const { networkKind: _networkKind, ...rest } = readDaemonEnv({});
  assert.deepEqual(rest, {
    port: 7330,
    domain: undefined,
    tls: undefined,
    drainMs: undefined,
    spareCount: 1,
    saveWhole: false,
    policy: {},
    userIds: undefined,
    pager: { use: "auto", prefetch: "workingSet" },
    onStop: "leave",
  });
});

test("every variable is heeded", () => {
  const env = {
    TORPOR_PORT: "0",
    TORPOR_SPARES: "3",
    TORPOR_NETWORK: "user",
    TORPOR_SAVE: "whole",
    TORPOR_ON_STOP: "pause",
    TORPOR_PAGER: "always",
    TORPOR_PREFETCH: "off",
    TORPOR_DOMAIN: "sandboxes.test",
    TORPOR_DRAIN_MS: "5",
    TORPOR_TIMEOUT_HOURS_MAX: "2",
    TORPOR_REQUESTS_MAX: "9",
    TORPOR_USER_IDS: "70000-70009",
    TORPOR_TLS_CERT: "/cert",
    TORPOR_TLS_KEY: "/key",
    TORPOR_TLS_PORT: "1",
  };
  assert.deepEqual(readDaemonEnv(env), {
    port: 0,
    domain: "sandboxes.test",
    drainMs: 5,
    tls: { certPath: "/cert", keyPath: "/key", address: "127.0.0.1", port: 1 },
    spareCount: 3,
    networkKind: "user",
    saveWhole: true,
    policy: { timeoutMsMax: 7_200_000, requestsMax: 9 },
    userIds: { first: 70_000, count: 10 },
    pager: { use: "always", prefetch: "off" },
    onStop: "pause",
  });
});

test("a wrong one is named", () => {
  for (const name of ["PORT", "SPARES", "NETWORK", "SAVE", "ON_STOP", "PAGER", "PREFETCH"]) {
    assert.throws(() => readDaemonEnv({ [`TORPOR_${name}`]: "x" }), {
      code: "argument.invalid",
      rawMessage: new RegExp(`^TORPOR_${name} must be`),
    });
  }
});

test("no variable of TLS is set in vain", () => {
  for (const name of ["TORPOR_TLS_CERT", "TORPOR_TLS_KEY", "TORPOR_TLS_ADDRESS"]) {
    assert.throws(() => readDaemonEnv({ [name]: "/pem" }), { code: "argument.invalid" }, name);
  }
  assert.throws(() => readDaemonEnv({ TORPOR_TLS_PORT: "443" }), {
    rawMessage: "TLS needs TORPOR_TLS_CERT and TORPOR_TLS_KEY",
  });
});

test("the defaults of the list are the daemon's own", () => {
  const written = Object.fromEntries(
    settingNames.flatMap((name) => {
      const { default: text, reader } = settings[name];
      const isTls = name.startsWith("TORPOR_TLS_");
      return text === undefined || reader !== "daemon" || isTls ? [] : [[name, text] as const];
    }),
  );
  assert.deepEqual(readDaemonEnv(written), {
    ...readDaemonEnv({}),
    domain: "localhost",
    drainMs: 2_000,
    policy: { timeoutMsMax: 720 * 3_600_000, requestsMax: 20_000 },
    userIds: defaultUserIds,
  });
});
