/**
 * The machine that has KVM: a Debian with the kernel of Torpor's guests, all that set-up would install,
 * and nothing of Torpor. It is a layer of the cache, built once from this machine's own mirror.
 *
 * Its first disk is this system; what is tested comes on a second one (see work-disk.ts). Nothing is
 * ever written to the layer: each run has an overlay above it.
 */
import { chmod, mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import {
  type Progress,
  buildDiskImage,
  buildInitramfs,
  buildKernelLayer,
  ensureLayer,
  guestInitPath,
  guestRelease,
  guestSourceLines,
  hostPackages,
  kernelModules,
  layerKey,
  loadDebianArchives,
  loadKernelLayer,
  makeDebianTree,
  withCacheLock,
} from "@torpor/setup";
import { Deadline, runCommand } from "@torpor/std";

const buildBudgetMs = 60 * 60_000;
/** Another set-up may have all of its own to do. */
const lockBudgetMs = 90 * 60_000;

/** ORDER: each is loaded after those it needs. What a machine that runs sandboxes loads on demand. */
const modules: readonly string[] = [
  ...kernelModules,
  ...["irqbypass", "kvm", "kvm_amd", "tun", "fuse", "loop"],
];

/** Has the newest QEMU for this release, which set-up takes too. */
const backports = `${guestRelease}-backports`;
/** What set-up would install, and what tests look at the machine with. */
const packages: readonly string[] = [
  ...hostPackages.map(({ name }) => name),
  ...["busybox-static", "fuse3", "iproute2", "procps", "util-linux"],
];

/** LIMIT of what a run writes besides its sandboxes. */
export const machineDiskBytes = 8 * 1024 ** 3;

/** Where the disk with the work is mounted, and what is run from it. */
export const workFolder = "/work";
export const workScript = "run";
/** On that disk, what belongs into the cache. */
export const layersFolder = "layers";
/** And the checkout's TypeScript as JavaScript. */
export const strippedFolder = "stripped";

const inittab = `# Read by busybox init, which is PID 1 and reaps what is orphaned.
::sysinit:/sbin/machine-boot
::once:/sbin/machine-work
`;

const init = `#!/bin/sh
exec /bin/busybox init
`;

/** As a Debian with systemd leaves it: file systems, all controllers of cgroup v2, the loopback. */
const boot = `#!/bin/sh
set -e
mkdir -p /dev/pts /dev/shm
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs -o mode=755 run /run
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for one in $(cat /sys/fs/cgroup/cgroup.controllers); do
  echo "+$one" >/sys/fs/cgroup/cgroup.subtree_control
done
[ -e /dev/fd ] || ln -s /proc/self/fd /dev/fd
mkdir -p ${workFolder}
mount -o noatime /dev/vdb ${workFolder}
hostname nested
ip link set lo up
`;

/** ORDER: whatever becomes of the work, the machine ends; with reboot=t that is the end of its QEMU. */
const work = `#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8
ulimit -Hn 1048576 && ulimit -Sn 65536
sh ${workFolder}/${workScript}
sync
busybox reboot -f
`;

const scripts: Readonly<Record<string, string>> = {
  [guestInitPath]: init,
  "/sbin/machine-boot": boot,
  "/sbin/machine-work": work,
};

export interface Machine {
  readonly kernelPath: string;
  readonly initramfsPath: string;
  /** Raw and sparse. INVARIANT: never written to. */
  readonly diskPath: string;
}

/** Builds what is missing. Needs root and, to build, the network. */
export async function prepareMachine(cacheFolder: string, progress: Progress): Promise<Machine> {
  const inputs = { release: guestRelease, backports, modules, packages, inittab };
  const key = layerKey({ ...inputs, ...scripts, machineDiskBytes });
  const folder = await withCacheLock(
    cacheFolder,
    Deadline.after(lockBudgetMs, "waiting for another set-up"),
    () => progress.note("Another set-up is at work: waiting for it"),
    () => ensureLayer(cacheFolder, "nested", key, (dir) => build(dir, progress)),
  );
  const { vmlinuzPath } = await loadKernelLayer(join(folder, "kernel"));
  return {
    kernelPath: vmlinuzPath,
    initramfsPath: join(folder, "initramfs.cpio"),
    diskPath: join(folder, "disk.raw"),
  };
}

async function build(dir: string, progress: Progress): Promise<void> {
  const deadline = Deadline.after(buildBudgetMs, "building the machine with KVM");
  const kernelFolder = join(dir, "kernel");
  await mkdir(kernelFolder);
  await progress.step("Kernel with KVM", (report) =>
    buildKernelLayer(kernelFolder, guestRelease, modules, report, deadline),
  );
  await progress.step("Machine with KVM", async (report) => {
    const tree = join(dir, "root");
    const archives = await loadDebianArchives(deadline);
    const sources = await guestSourceLines(archives, guestRelease, [backports]);
    await makeDebianTree({ packages, sources, suite: backports, target: tree }, report, deadline);
    await writeFile(join(tree, "etc/inittab"), inittab);
    for (const [path, text] of Object.entries(scripts)) {
      await writeFile(join(tree, path), text);
      await chmod(join(tree, path), 0o755);
    }
    await buildInitramfs(join(dir, "initramfs.cpio"), {
      busyboxPath: join(tree, "usr/bin/busybox"),
      modulePaths: (await loadKernelLayer(kernelFolder)).modulePaths,
    });
    const outPath = join(dir, "disk.raw");
    await buildDiskImage({ rootDir: tree, outPath, diskBytes: machineDiskBytes }, deadline);
    await runCommand(["rm", "-rf", "--one-file-system", tree], deadline);
  });
}
