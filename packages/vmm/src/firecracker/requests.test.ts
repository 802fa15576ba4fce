/** Compares every request that the driver makes with Firecracker's description of its API. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { contractRelease, faultIn, findOperation, operations } from "@torpor/testing";
import { Ajv } from "ajv";
import type { MachineShape } from "../driver.ts";
import {
  type ApiRequest,
  bootRequests,
  limitRequests,
  loadRequest,
  runStateRequest,
  saveRequest,
  stateRequest,
  usualRateLimits,
  versionRequest,
} from "./requests.ts";
import { parseRelease } from "./version.ts";

const machine: MachineShape = {
  vcpuCount: 2,
  memoryMiB: 512,
  kernelPath: "/kernel",
  initramfsPath: "/initramfs",
  kernelArguments: "console=ttyS0",
  guestMac: "02:54:4f:52:50:52",
};
const releases = ["1.16.1", "1.17.0", "2.0.0"];

function everyRequest(release: string): readonly ApiRequest[] {
  const load = { release: parseRelease(release), statePath: "/state", tapName: "tap0" };
  return [
    versionRequest,
    stateRequest,
    ...bootRequests(machine, "tap0", usualRateLimits),
    loadRequest({ ...load, memory: { kind: "File", path: "/memory" } }),
    loadRequest({ ...load, memory: { kind: "Uffd", path: "/socket" } }),
    ...limitRequests(usualRateLimits),
    runStateRequest("Paused"),
    runStateRequest("Resumed"),
    saveRequest("Full", "/state", "/memory"),
    saveRequest("Diff", "/state", "/memory"),
  ];
}

test("every request keeps to Firecracker's API, in each release that is run", () => {
  assert.equal(contractRelease, "1.16.1");
  // "since" is our own addition: the release that first has a field. `faultIn` checks it.
  const ajv = new Ajv({ keywords: ["since"] });
  const used = new Set<object>();
  for (const release of releases) {
    for (const { method, path, body } of everyRequest(release)) {
      const operation = findOperation(method, path);
      assert.ok(operation !== undefined, `${method} ${path}`);
      used.add(operation);
      assert.equal(operation.body === undefined, body === undefined, `${method} ${path}`);
      if (operation.body === undefined) continue;
      assert.equal(faultIn(operation.body, body, release), undefined, `${method} ${path}`);
      assert.ok(ajv.validate(operation.body, body), `${method} ${path}: ${ajv.errorsText()}`);
    }
  }
  const unused = operations.filter((operation) => !used.has(operation));
  assert.deepEqual(
    unused.map(({ path }) => path),
    ["/vm/config"],
  );
});

test("a field that came later is sent to releases that have it only", () => {
  const load = { statePath: "/s", tapName: "tap0", memory: { kind: "File", path: "/m" } } as const;
  const before = loadRequest({ ...load, release: [1, 16, 9] });
  const after = loadRequest({ ...load, release: [1, 17, 0] });
  assert.ok(before.body !== undefined && after.body !== undefined);
  assert.equal("huge_pages" in before.body, false);
  assert.equal(after.body["huge_pages"], "None");
  const schema = findOperation("PUT", "/snapshot/load")?.body;
  assert.ok(schema !== undefined);
  const fault = faultIn(schema, after.body, "1.16.1");
  assert.match(fault ?? "", /unknown field `huge_pages`/, "an older one refuses all of it");
});

test("the guest's clocks are left alone, and nothing is asked of MMDS", () => {
  const text = JSON.stringify(releases.flatMap(everyRequest));
  assert.doesNotMatch(text, /clock_realtime|mmds/);
});

test("a VM is limited as it is booted, and again as it is loaded", () => {
  const limiters = (requests: readonly ApiRequest[]): readonly string[] =>
    requests.flatMap(({ path, body }) =>
      Object.keys(body ?? {})
        .filter((name) => name.endsWith("rate_limiter"))
        .map((name) => `${path} ${name}`),
    );
  const devices = [
    "/drives/disk rate_limiter",
    "/network-interfaces/net rx_rate_limiter",
    "/network-interfaces/net tx_rate_limiter",
  ];
  const boot = bootRequests(machine, "tap0", usualRateLimits);
  assert.deepEqual(limiters(boot), [...devices, "/entropy rate_limiter"]);
  assert.deepEqual(limiters(limitRequests(usualRateLimits)), devices);
  assert.equal(boot.at(-1)?.path, "/actions", "power comes last");
});
