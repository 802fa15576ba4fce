/** What the Firecracker driver does when something fails, on a fake one: it says so, and leaves nothing. */
import assert from "node:assert/strict";
import { mkdir, mkdtempDisposable, readFile, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { once } from "node:events";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, suite, test } from "node:test";
import { Deadline } from "@torpor/std";
import { createOverlay } from "@torpor/storage";
import {
  type ConformanceRig,
  fakeFirecrackerSkip,
  installFakeFirecracker,
  makeFakeFirecrackerRig,
} from "@torpor/testing";
import {
  FirecrackerDriver,
  type FirecrackerOptions,
  type PagedMemory,
  type Vm,
  type VmSpec,
} from "@torpor/vmm";

function deadline(): Deadline {
  return Deadline.after(30_000, "the test");
}

async function withRig(
  t: TestContext,
  work: (rig: ConformanceRig, undo: AsyncDisposableStack) => Promise<void>,
): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-firecracker-"));
  const rig = await makeFakeFirecrackerRig(folder.path);
  {
    await using undo = new AsyncDisposableStack();
    await work(rig, undo);
  }
  assert.deepEqual(await rig.driver.processesBelow(folder.path), [], t.name);
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  assert.ok(!mounts.includes(folder.path), "nothing is mounted where all can see it");
}

async function makeSpec(
  rig: ConformanceRig,
  undo: AsyncDisposableStack,
  runFolder = join(rig.folder, "run"),
): Promise<VmSpec> {
  await mkdir(runFolder, { mode: 0o700 });
  const top = `${runFolder}.qcow2`;
  await createOverlay(top, rig.diskBytes);
  const network = undo.use(await rig.network());
  return {
    name: "failing",
    machine: rig.machine,
    memoryPath: rig.imagePath,
    disk: [rig.disk, { path: top, format: "qcow2" }],
    network: undo.use(network.attachment),
    readsLater: [rig.deviceStatePath],
    runFolder,
  };
}

async function start(
  rig: ConformanceRig,
  undo: AsyncDisposableStack,
  options: FirecrackerOptions = {},
): Promise<Vm> {
  const program = await installFakeFirecracker(join(rig.folder, "bin"));
  const driver = new FirecrackerDriver({ program, ...options });
  const vm = await driver.restore(await makeSpec(rig, undo), deadline());
  undo.defer(() => vm.end(deadline()));
  return vm;
}

suite("Firecracker's failures", { skip: fakeFirecrackerSkip }, () => {
  test("a release that damages guests is not started", async (t) => {
    await withRig(t, async (rig, undo) => {
      const program = await installFakeFirecracker(join(rig.folder, "old"), { release: "1.14.2" });
      const driver = new FirecrackerDriver({ program });
      const refused = { code: "vmm.missing", message: /1\.14\.2 is not run: it corrupts diff/ };
      await assert.rejects(driver.identity(), refused);
      await assert.rejects(driver.restore(await makeSpec(rig, undo), deadline()), refused);
    });
  });

  test("a network without a TAP device is refused", async (t) => {
    await withRig(t, async (rig, undo) => {
      const network: VmSpec["network"] = {
        kind: "user",
        guestAddress: "10.0.2.15",
        gatewayAddress: "10.0.2.2",
        guestPrefixBits: 24,
        hostPort: 1,
        guestPort: 1,
      };
      const spec = { ...(await makeSpec(rig, undo)), network };
      await assert.rejects(rig.driver.restore(spec, deadline()), { code: "root.required" });
    });
  });

  test("a jailer that fails is quoted", async (t) => {
    await withRig(t, async (rig, undo) => {
      const program = await installFakeFirecracker(join(rig.folder, "bin"));
      const script = `#!/bin/bash\n[ "$1" = --version ] && { echo Jailer v1.16.1; exit; }\necho no room in the jail >&2\nexit 1\n`;
      await writeFile(program.jailer, script);
      const driver = new FirecrackerDriver({ program });
      await assert.rejects(driver.restore(await makeSpec(rig, undo), deadline()), {
        code: "vmm.exited",
        message: /no room in the jail/,
      });
    });
  });

  test("a disk that cannot be opened is quoted", async (t) => {
    await withRig(t, async (rig, undo) => {
      const spec = await makeSpec(rig, undo);
      const disk = [rig.disk, { path: join(rig.folder, "absent.qcow2"), format: "qcow2" } as const];
      await assert.rejects(rig.driver.restore({ ...spec, disk }, deadline()), {
        code: "vmm.exited",
      });
      assert.match(await readFile(join(spec.runFolder, "vmm.log"), "utf8"), /absent\.qcow2/);
    });
  });

  test("a load that is refused ends the process, which has last words", async (t) => {
    await withRig(t, async (rig, undo) => {
      const vm = await start(rig, undo);
      const damaged = join(rig.folder, "device.state");
      await writeFile(damaged, "no state");
      // It is in no jail, so Firecracker does not find it.
      await assert.rejects(vm.loadDeviceState(damaged, deadline()), {
        code: "vmm.failed",
        message: /PUT \/snapshot\/load: Load snapshot error: .*ENOENT/,
      });
      const { vmmTail } = await deadline().race(vm.exited);
      assert.match(vmmTail, /BuildMicrovmFromRequests\(Restore\)/);
    });
  });

  test("a VM ends when the process of its disk does", async (t) => {
    await withRig(t, async (rig, undo) => {
      const vm = await start(rig, undo);
      await vm.loadDeviceState(rig.deviceStatePath, deadline());
      await vm.releaseVcpus(deadline());
      const disk = vm.handle.firecracker?.disk.pid;
      assert.ok(disk !== undefined);
      process.kill(disk, "SIGKILL");
      await deadline().race(vm.exited);
    });
  });

  test("a VM can be paged, is compared with what the pager serves, and ends with it", async (t) => {
    await withRig(t, async (rig, undo) => {
      const asked: PagedMemory[] = [];
      const ended = Promise.withResolvers<void>();
      const told = Promise.withResolvers<string>();
      let ends = 0;
      const vm = await start(rig, undo, {
        startPager: async (memory) => {
          asked.push(memory);
          const server = undo.use(
            createServer((socket) => socket.on("data", (text) => told.resolve(String(text)))),
          );
          server.listen(memory.socketPath);
          await once(server, "listening");
          return {
            ended: ended.promise,
            read: (_offsetBytes, into) => into.fill(7),
            end: async () => void (ends += 1),
          };
        },
      });
      const content = {
        ranges: () => [{ startBytes: 0, endBytes: 4096 }],
        applyTo: async () => undefined,
      };
      await vm.loadMemory(content, deadline());
      await vm.loadDeviceState(rig.deviceStatePath, deadline());
      const [{ imagePath, sizeBytes, content: served, userId } = assert.fail()] = asked;
      assert.equal(imagePath, rig.imagePath);
      assert.equal(sizeBytes, rig.machine.memoryMiB * 2 ** 20);
      assert.equal(served, content);
      assert.equal(userId, vm.handle.userId);
      const [region] = JSON.parse(await told.promise) as readonly { readonly size: number }[];
      assert.equal(region?.size, sizeBytes);
      const page = Buffer.alloc(4096);
      vm.memory.read(8192, page);
      assert.ok(page.every((byte) => byte === 7));
      assert.deepEqual(vm.memory.ownRanges(), content.ranges());
      ended.resolve();
      await deadline().race(vm.exited);
      await vm.end(deadline());
      assert.equal(ends, 1);
    });
  });
});
