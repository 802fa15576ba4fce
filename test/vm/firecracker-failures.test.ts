/** What the Firecracker driver does when something fails, on a fake one: it says so, and leaves nothing. */
import assert from "node:assert/strict";
import { mkdir, mkdtempDisposable, readFile, readdir, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, suite, test } from "node:test";
import type { PagerProcess } from "@torpor/pager";
import { Deadline } from "@torpor/std";
import { createOverlay } from "@torpor/storage";
import {
  type ConformanceRig,
  type PagedRig,
  fakeFirecrackerSkip,
  installFakeFirecracker,
  makeFakeFirecrackerRig,
  makePagedFirecrackerRig,
  waitUntil,
} from "@torpor/testing";
import { FirecrackerDriver, type Vm, type VmSpec } from "@torpor/vmm";

function deadline(): Deadline {
  return Deadline.after(30_000, "the test");
}

type Work<R> = (rig: R, undo: AsyncDisposableStack) => Promise<void>;

async function withRig(t: TestContext, work: Work<ConformanceRig>): Promise<void> {
  await withNewRig(t, makeFakeFirecrackerRig, work);
}

async function withNewRig<R extends ConformanceRig>(
  t: TestContext,
  make: (folder: string) => Promise<R>,
  work: Work<R>,
): Promise<void> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-firecracker-"));
  const rig = await make(folder.path);
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

async function start(rig: ConformanceRig, undo: AsyncDisposableStack): Promise<Vm> {
  const vm = await rig.driver.restore(await makeSpec(rig, undo), deadline());
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

  test("a VM whose pager is killed is ended, and its end told", async (t) => {
    await withPagedVm(t, async (rig, { vm, pager }) => {
      await vm.loadDeviceState(rig.deviceStatePath, deadline());
      await vm.releaseVcpus(deadline());
      process.kill(pager.pid, "SIGKILL");
      const { reason } = await deadline().race(vm.exited);
      assert.equal(reason?.code, "vmm.exited");
      assert.match(
        reason.rawMessage,
        /^its pager failed: the VM's pager was killed; see .*pager\.log$/,
      );
      await assert.rejects(vm.holdVcpus(deadline()), { code: "vmm.exited" });
    });
  });

  test("a pager that cannot go on ends its VM, which tells why", async (t) => {
    await withPagedVm(t, async (rig, { vm }) => {
      await vm.loadDeviceState(rig.deviceStatePath, deadline());
      await truncate(rig.imagePath, 0);
      await vm.releaseVcpus(deadline());
      const { reason } = await deadline().race(vm.exited);
      assert.equal(reason?.code, "snapshot.corrupt");
      assert.match(
        reason.rawMessage,
        /^its pager failed: page \d+ of memory cannot be read any more$/,
      );
    });
  });

  test("a pager ends with its VM, whatever ended that, and leaves no socket", async (t) => {
    await withNewRig(t, makePagedFirecrackerRig, async (rig, undo) => {
      for (const end of ["asked for", "killed", "never loaded", "refused to load"] as const) {
        const { vm, pager, runFolder } = await startPaged(
          rig,
          undo,
          join(rig.folder, end.replaceAll(" ", "-")),
        );
        if (end === "refused to load") {
          await writeFile(rig.deviceStatePath, "no state");
          await assert.rejects(vm.loadDeviceState(rig.deviceStatePath, deadline()));
        } else if (end !== "never loaded") {
          await vm.loadDeviceState(rig.deviceStatePath, deadline());
          await vm.releaseVcpus(deadline());
        }
        if (end === "killed") process.kill(vm.handle.pid, "SIGKILL");
        else await vm.end(deadline());
        assert.equal((await deadline().race(vm.exited)).reason, undefined, end);
        await vm.end(deadline());
        await waitUntil(`the end of the pager, ${end}`, () => hasEnded(pager.pid));
        const left = await readdir(runFolder, { recursive: true });
        assert.deepEqual(
          left.filter((name) => /pager.*(sock|line)$/.test(name)),
          [],
          end,
        );
        assert.deepEqual(await rig.driver.processesBelow(rig.folder), [], end);
      }
    });
  });

  test("a VM with a pager is adopted with it, and not without", async (t) => {
    await withPagedVm(t, async (rig, { vm, pager, runFolder }) => {
      await vm.loadDeviceState(rig.deviceStatePath, deadline());
      await vm.releaseVcpus(deadline());
      vm.release();
      assert.equal(rig.pagers.find(runFolder), undefined);
      const stranger = new FirecrackerDriver({});
      await assert.rejects(stranger.adopt(vm.handle, deadline()), { code: "vmm.failed" });
      const adopted = await rig.driver.adopt(vm.handle, deadline());
      assert.equal(rig.pagers.find(runFolder)?.pid, pager.pid);
      await adopted.holdVcpus(deadline());
      adopted.release();
      process.kill(pager.pid, "SIGKILL");
      await assert.rejects(rig.driver.adopt(vm.handle, deadline()), {
        code: "vmm.failed",
        message: /the VM's pager is gone/,
      });
      for (const one of await rig.driver.processesBelow(rig.folder)) await one.end(deadline());
    });
  });

  test("a pager whose VM never came is found by its run", async (t) => {
    await withNewRig(t, makePagedFirecrackerRig, async (rig, undo) => {
      const runFolder = join(rig.folder, "run");
      await mkdir(runFolder, { mode: 0o700 });
      const startPager = rig.pagerOf([], runFolder) ?? assert.fail();
      const place = { runFolder, socketPath: join(runFolder, "pager.sock"), userId: 0 };
      const pager = await startPager(place, deadline());
      undo.defer(() => pager.end(deadline()));
      pager.release();
      const found = await rig.driver.processesBelow(rig.folder);
      assert.deepEqual(
        found.map((one) => [one.pid, one.runFolder]),
        [[pager.pid, runFolder]],
      );
      for (const one of found) await one.end(deadline());
      await waitUntil("the end of the pager", () => hasEnded(pager.pid));
    });
  });
});

/** Of a process that may be this one's child, and not have been waited for yet. */
async function hasEnded(pid: number): Promise<true | undefined> {
  const status = await readFile(`/proc/${pid}/status`, "utf8").catch(() => "State:\tZ");
  return /^State:\tZ/m.test(status) ? true : undefined;
}

interface PagedVm {
  readonly vm: Vm;
  readonly pager: PagerProcess;
  readonly runFolder: string;
}

/** Not loaded yet. */
async function startPaged(
  rig: PagedRig,
  undo: AsyncDisposableStack,
  runFolder = join(rig.folder, "run"),
): Promise<PagedVm> {
  const spec = await makeSpec(rig, undo, runFolder);
  const startPager = rig.pagerOf([], runFolder) ?? assert.fail();
  const vm = await rig.driver.restore({ ...spec, startPager }, deadline());
  undo.defer(() => vm.end(deadline()));
  const pager = rig.pagers.find(runFolder) ?? assert.fail();
  return { vm, pager, runFolder };
}

async function withPagedVm(
  t: TestContext,
  work: (rig: PagedRig, paged: PagedVm) => Promise<void>,
): Promise<void> {
  await withNewRig(t, makePagedFirecrackerRig, async (rig, undo) => {
    await work(rig, await startPaged(rig, undo));
  });
}
