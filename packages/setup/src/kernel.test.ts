import assert from "node:assert/strict";
import { test } from "node:test";
import { chooseModules, parseKernelDependency } from "./kernel.ts";

test("parseKernelDependency() finds the versioned package", () => {
  const text =
    "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
  assert.deepEqual(parseKernelDependency(text), {
    name: "linux-image-6.1.0-56-cloud-amd64",
    version: "6.1.192-2",
  });
  assert.throws(() => parseKernelDependency("Package: other\n"), { code: "command.failed" });
});

test("chooseModules() keeps the wanted order, takes compressed files and skips built-in ones", () => {
  const files = ["kernel/b/virtio-net.ko.xz", "kernel/a/virtio_ring.ko", "modules.builtin"];
  const chosen = chooseModules(
    files,
    ["kernel/fs/virtio_blk.ko"],
    ["virtio_ring", "virtio_blk", "virtio_net"],
  );
  assert.deepEqual(chosen, ["kernel/a/virtio_ring.ko", "kernel/b/virtio-net.ko.xz"]);
});

test("chooseModules() refuses a kernel that lacks one", () => {
  assert.throws(() => chooseModules([], [], ["virtio_blk"]), { code: "command.failed" });
});
