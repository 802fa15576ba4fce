import assert from "node:assert/strict";
import { test } from "node:test";
import { inspectCgroups } from "./cgroup.ts";

const line = (type: string, path: string): string =>
  `24 23 0:21 / ${path} rw,relatime - ${type} ${type} rw`;

test("inspectCgroups() says why there are none", () => {
  const none = inspectCgroups(line("cgroup", "/sys/fs/cgroup/memory"));
  assert.deepEqual(none, { kind: "unusable", why: "no cgroup v2 is mounted" });
  const missing = inspectCgroups(line("cgroup2", "/nonexistent"));
  assert.ok(missing.kind === "unusable");
  assert.match(missing.why, /\/nonexistent: ENOENT/);
});
