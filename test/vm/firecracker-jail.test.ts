/**
 * What a jailed Firecracker can see and change, seen through the eyes of a shell that is in its place: in
 * the same mounts, below the same root, as the same user.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmod, mkdir, mkdtempDisposable, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { baseImage } from "@torpor/setup";
import { Deadline } from "@torpor/std";
import { createOverlay, defaultCacheFolder } from "@torpor/storage";
import {
  type ConformanceRig,
  fakeFirecrackerSkip,
  makeFakeFirecrackerRig,
  makePagedFirecrackerRig,
} from "@torpor/testing";
import type { Vm } from "@torpor/vmm";
import { makeRealFirecrackerRig, realFirecrackerSkip } from "./small-guest.ts";

function deadline(): Deadline {
  return Deadline.after(30_000, "the test");
}

/** The guest's, which needs no library; out of an archive of the format "newc" (cpio(5)). */
async function readBusybox(): Promise<Buffer> {
  const { initramfsPath } = await baseImage(defaultCacheFolder());
  const archive = await readFile(initramfsPath);
  const rounded = (bytes: number): number => Math.ceil(bytes / 4) * 4;
  for (let at = 0; at < archive.length;) {
    const field = (index: number): number =>
      Number.parseInt(archive.toString("latin1", at + 6 + index * 8, at + 14 + index * 8), 16);
    const [dataBytes, nameBytes] = [field(6), field(11)];
    const name = archive.toString("latin1", at + 110, at + 109 + nameBytes);
    const start = rounded(at + 110 + nameBytes);
    if (name === "bin/busybox") return archive.subarray(start, start + dataBytes);
    at = rounded(start + dataBytes);
  }
  return assert.fail("the initramfs has a busybox");
}

/** A VM in its jail, and a shell in its place. */
interface Jailed {
  readonly vm: Vm;
  readonly runFolder: string;
  readonly topPath: string;
  readonly run: (script: string) => string;
}

/** Where to enter it, as its user: arguments of nsenter. */
type Place = (vm: Vm, root: string) => readonly string[];

async function jail(
  rig: ConformanceRig,
  place: Place,
  folder: string,
  undo: AsyncDisposableStack,
): Promise<Jailed> {
  const runFolder = join(folder, "run");
  const topPath = join(folder, "top.qcow2");
  await mkdir(runFolder, { mode: 0o700 });
  await createOverlay(topPath, rig.diskBytes);
  const network = undo.use(await rig.network());
  using attachment = network.attachment;
  const startPager = rig.pagerOf?.([], runFolder);
  const vm = await rig.driver.restore(
    {
      name: "jailed",
      machine: rig.machine,
      memoryPath: rig.imagePath,
      disk: [rig.disk, { path: topPath, format: "qcow2" }],
      network: attachment,
      readsLater: [rig.deviceStatePath],
      ...(startPager === undefined ? {} : { startPager }),
      runFolder,
    },
    deadline(),
  );
  undo.defer(() => vm.end(deadline()));
  const { disk } = vm.handle.firecracker ?? assert.fail();
  const root = dirname(disk.target);
  const busybox = join(root, "busybox");
  await writeFile(busybox, await readBusybox());
  await chmod(busybox, 0o755);
  const run = (script: string): string =>
    execFileSync(
      "nsenter",
      [
        ...place(vm, root),
        ...["/busybox", "sh", "-c", `busybox() { /busybox "$@"; }; { ${script}; } 2>&1`],
      ],
      { encoding: "utf8" },
    );
  return { vm, runFolder, topPath, run };
}

/** A fake jailer changes neither root nor user: whoever looks must. */
const fakePlace: Place = ({ handle }, root) => [
  ...["--target", String(handle.firecracker?.disk.pid), "--mount"],
  ...["chroot", `--userspec=${handle.userId}:${handle.userId}`, root],
];

const realPlace: Place = ({ handle }) => [
  ...["--target", String(handle.pid), "--mount", "--root", "--wd=/"],
  ...["--setuid", String(handle.userId), "--setgid", String(handle.userId)],
];

const jailers = [
  {
    name: "a fake jailer",
    skip: fakeFirecrackerSkip,
    makeRig: makeFakeFirecrackerRig,
    place: fakePlace,
  },
  {
    name: "the real jailer",
    skip: realFirecrackerSkip,
    makeRig: makeRealFirecrackerRig,
    place: realPlace,
  },
];

for (const { name, skip, makeRig, place } of jailers) {
  test(`a jail of ${name} has what its VM needs, and nothing to change`, { skip }, async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-jail-"));
    const rig = await makeRig(folder.path);
    const secret = join(folder.path, "secret");
    await writeFile(secret, "of another", { mode: 0o644 });
    await using undo = new AsyncDisposableStack();
    const { vm, runFolder, topPath, run } = await jail(rig, place, folder.path, undo);
    const mine = join(runFolder, "vm");
    assert.match(
      run("busybox id"),
      new RegExp(`uid=${vm.handle.userId} gid=${vm.handle.userId}\\n`),
    );
    assert.equal(run(`busybox head -c 4096 ${rig.imagePath} | busybox wc -c`).trim(), "4096");
    const checksum = createHash("sha256")
      .update(await readFile(rig.deviceStatePath))
      .digest("hex");
    assert.equal(run(`busybox sha256sum ${rig.deviceStatePath}`).split(" ")[0], checksum);
    const block = "bs=512 seek=9 conv=notrunc,fsync";
    run(`echo written | busybox dd of=/disk ${block}`);
    assert.match(run("busybox dd if=/disk bs=512 skip=9 count=1"), /written/);
    assert.equal(run(`echo x >${mine}/file && busybox cat ${mine}/file`).trim(), "x");
    for (const path of [rig.imagePath, rig.deviceStatePath]) {
      assert.match(run(`echo x >${path} || true`), /Read-only file system/);
    }
    assert.match(run(`echo x >${runFolder}/file || true`), /Permission denied/);
    for (const path of [secret, topPath, rig.disk.path, "/etc/passwd", "/proc/1/root"]) {
      assert.match(run(`busybox cat ${path} || true`), /No such file or directory/);
    }
  });
}

test(
  "of its pager a jail has the socket, and of its memory nothing",
  { skip: fakeFirecrackerSkip },
  async () => {
    await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-jail-"));
    const rig = await makePagedFirecrackerRig(folder.path);
    await using undo = new AsyncDisposableStack();
    const { vm, runFolder, run } = await jail(rig, fakePlace, folder.path, undo);
    const socket = run(`busybox stat -c '%F %a %u' ${runFolder}/vm/pager.sock`).trim();
    assert.equal(socket, `socket 600 ${vm.handle.userId}`);
    assert.equal(run(`busybox ls ${runFolder}`).trim(), "vm");
    for (const path of [
      rig.imagePath,
      join(runFolder, "pager.json"),
      join(runFolder, "memory.img"),
    ]) {
      assert.match(run(`busybox cat ${path} || true`), /No such file or directory/);
    }
    // Once the VM has connected there is nothing left to connect to.
    await vm.loadDeviceState(rig.deviceStatePath, deadline());
    await vm.releaseVcpus(deadline());
    assert.doesNotMatch(run(`busybox ls ${runFolder}/vm`), /pager/);
  },
);
