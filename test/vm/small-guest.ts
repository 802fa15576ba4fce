/**
 * A rig for tests of Firecracker's driver, on the real one, with guests that are small: Debian's kernel, busybox and
 * a web server that remembers, without Torpor's agent and without a template of set-up's. A driver has
 * to do with nothing else, and such a guest is up where one with the agent takes minutes.
 *
 * The tests do not run, and say so, where no FIRECRACKER_BIN names one or set-up found that KVM does not
 * work.
 */
import { mkdir, readFile, truncate, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { type NewGuestNetwork, createNetwork } from "@torpor/network";
import { guestAddress, guestAddressing, guestMac, guestPrefixBits } from "@torpor/protocol";
import {
  type CpioEntry,
  baseImage,
  extractVmlinux,
  knownAccelerator,
  writeNewc,
} from "@torpor/setup";
import { Deadline, runCommand } from "@torpor/std";
import { defaultCacheFolder } from "@torpor/storage";
import type { ConformanceRig } from "@torpor/testing";
import { FirecrackerDriver, type MachineShape, defaultUserIds, openCgroups } from "@torpor/vmm";

/** LIMIT: the guest's generation, what tells the guest of it, and the rings of its devices. */
const pagesRenewedMax = 16;
const memoryMiB = 128;
const diskBytes = 64 * 2 ** 20;
const port = 8080;
const bootBudgetMs = 60_000;
const answerBudgetMs = 30_000;
const retryMs = 100;

/** Runs from memory. The modules are those that the initramfs of every guest has, named in load order. */
const init = `#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
mount -t devtmpfs dev /dev
mount -t sysfs sys /sys
for module in /modules/*; do insmod "$module"; done
mkdir /dev/shm
mount -t tmpfs shm /dev/shm
mount -t ext4 /dev/vda /disk
ip link set lo up
ip address add ${guestAddress}/${guestPrefixBits} dev eth0
ip link set eth0 up
httpd -p ${port} -h /www
while :; do sleep 3600; done
`;

const answerHead = `printf 'Content-Type: text/plain\\r\\n\\r\\n'`;
const programs: Readonly<Record<string, string>> = {
  remember: `for file in /dev/shm/note /disk/note; do echo "$QUERY_STRING" >$file; done
sync
${answerHead}`,
  // Not what is still in memory of the disk.
  recall: `echo 3 >/proc/sys/vm/drop_caches
${answerHead}
cat /dev/shm/note /disk/note`,
};

/** Why it cannot be run here, for tests to skip it with. */
export const realFirecrackerSkip: string | false = await whyNotRun();

async function whyNotRun(): Promise<string | false> {
  if (process.env["FIRECRACKER_BIN"] === undefined) {
    return "not run: FIRECRACKER_BIN names no Firecracker";
  }
  const known = await knownAccelerator(defaultCacheFolder());
  return known?.accelerator === "kvm" ? false : `not run: ${known?.reason ?? "KVM was not tried"}`;
}

/** @param folder Empty; the caller removes it. */
export async function makeRealFirecrackerRig(folder: string): Promise<ConformanceRig> {
  const confinement = { userIds: defaultUserIds, cgroups: openCgroups() };
  const driver = new FirecrackerDriver({ confinement });
  const path = (name: string): string => join(folder, name);
  const deadline = Deadline.after(bootBudgetMs, "making a small guest");
  const base = await baseImage(defaultCacheFolder());
  await extractVmlinux(base.kernelPath, path("vmlinux"), deadline);
  // The kernel unpacks one archive over the other.
  const archives = [await readFile(base.initramfsPath), writeNewc(guestFiles())];
  await writeFile(path("initramfs"), Buffer.concat(archives));
  await writeFile(path("disk.raw"), "");
  await truncate(path("disk.raw"), diskBytes);
  await runCommand(["mke2fs", "-q", "-t", "ext4", path("disk.raw")], deadline);
  const machine: MachineShape = {
    ...{ vcpuCount: 1, memoryMiB, guestMac },
    kernelPath: path("vmlinux"),
    initramfsPath: path("initramfs"),
    kernelArguments: "console=ttyS0 quiet loglevel=4 panic=-1 reboot=t",
  };
  const rig: ConformanceRig = {
    ...{ driver, machine, diskBytes, folder, pagesRenewedMax },
    imagePath: path("memory.img"),
    deviceStatePath: path("device.state"),
    disk: { path: path("disk.raw"), format: "raw" },
    network: () => createNetwork("namespace", guestAddressing),
    remember: async ({ network }, text) =>
      void (await ask(network, `/cgi-bin/remember?${encodeURIComponent(text)}`)),
    recall: async ({ network }) => {
      const answer = await ask(network, "/cgi-bin/recall");
      const [memory = "", disk = ""] = answer.split("\n").map(decodeURIComponent);
      return { memory, disk };
    },
  };
  await bootTemplate(rig, deadline);
  return rig;
}

function guestFiles(): readonly CpioEntry[] {
  const folders = ["disk", "www", "www/cgi-bin"];
  const scripts = Object.entries(programs).map(
    ([name, text]) => [`www/cgi-bin/${name}`, `#!/bin/busybox sh\n${text}\n`] as const,
  );
  return [
    ...folders.map((path): CpioEntry => ({ kind: "dir", path, mode: 0o755 })),
    ...[["init", init] as const, ...scripts].map(([path, text]): CpioEntry => ({
      kind: "file",
      path,
      mode: 0o755,
      data: Buffer.from(text),
    })),
  ];
}

async function bootTemplate(rig: ConformanceRig, deadline: Deadline): Promise<void> {
  await using undo = new AsyncDisposableStack();
  const runFolder = join(rig.folder, "boot");
  await mkdir(runFolder, { mode: 0o700 });
  const network = undo.use(await rig.network());
  using attachment = network.attachment;
  const { driver, machine, imagePath: memoryPath } = rig;
  const vm = await driver.boot(
    {
      ...{ name: "template", machine, memoryPath, runFolder },
      disk: [rig.disk],
      network: attachment,
    },
    deadline,
  );
  undo.defer(() => vm.end(Deadline.after(answerBudgetMs, "ending the template's VM")));
  await ask(network, "/cgi-bin/recall");
  await vm.holdVcpus(deadline);
  await vm.saveDeviceState(rig.deviceStatePath, deadline);
  await vm.flushDisk(deadline);
}

/** Asks again as long as nobody listens. */
async function ask(network: NewGuestNetwork, path: string): Promise<string> {
  const deadline = Deadline.after(answerBudgetMs, `asking the guest for ${path}`);
  for (;;) {
    try {
      return await deadline.race(exchange(network, path));
    } catch (cause) {
      if (deadline.expired) throw cause;
      await deadline.sleep(retryMs);
    }
  }
}

async function exchange(network: NewGuestNetwork, path: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const sent = request({ createConnection: () => network.dial(port), path }, (answer) => {
    let received = "";
    answer.setEncoding("utf8");
    answer.on("data", (chunk: string) => (received += chunk));
    answer.on("error", reject);
    answer.on("end", () => resolve(received));
  });
  sent.on("error", reject);
  sent.end();
  return await promise;
}
