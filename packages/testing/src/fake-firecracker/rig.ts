/**
 * A template of fake Firecracker guests, and everything that waking VMs from it needs: real files,
 * namespaces, TAP devices and disks, and the real driver.
 */
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { Pagers } from "@torpor/host";
import { createNetwork } from "@torpor/network";
import { guestAddressing, guestMac } from "@torpor/protocol";
import { Deadline } from "@torpor/std";
import {
  FirecrackerDriver,
  type FirecrackerOptions,
  type MachineShape,
  type Vm,
} from "@torpor/vmm";
import type { ConformanceRig, Remembered } from "../vmm-conformance.ts";
import { installFakeFirecracker } from "./install.ts";

const memoryMiB = 16;
const diskBytes = 64 * 2 ** 20;

/** Acts in the fake's guest by one of its own routes. */
async function inGuest({ handle }: Vm, path: string, text?: string): Promise<string> {
  const { promise, resolve, reject } = Promise.withResolvers<string>();
  const socketPath = join(handle.runFolder, "vm/api.sock");
  const sent = request(
    { socketPath, path, method: text === undefined ? "GET" : "PUT" },
    (answer) => {
      let received = "";
      answer.on("data", (chunk) => (received += String(chunk)));
      answer.on("end", () => resolve(received));
    },
  );
  sent.on("error", reject);
  sent.end(text);
  return await promise;
}

/** The reason why the fake cannot run here, for skipping tests; false if it can. */
export const fakeFirecrackerSkip: string | false =
  process.getuid?.() !== 0 ? "needs root" : existsSync("/dev/fuse") ? false : "needs /dev/fuse";

/** A rig whose VMs can load their memory from pagers. */
export interface PagedRig extends ConformanceRig {
  readonly pagers: Pagers;
  readonly pagerOf: NonNullable<ConformanceRig["pagerOf"]>;
}

/** Makes a rig whose VMs load all of their memory from pagers, like a daemon with that setting. */
export async function makePagedFirecrackerRig(folder: string): Promise<PagedRig> {
  const pagers = new Pagers({ use: "always", prefetch: "workingSet" });
  const rig = await makeFakeFirecrackerRig(folder, {
    adoptPager: (runFolder, deadline) => pagers.adopt(runFolder, deadline),
  });
  const { imagePath, machine } = rig;
  const sizeBytes = machine.memoryMiB * 2 ** 20;
  const none = { begin: undefined, recordPath: undefined };
  return {
    ...rig,
    pagers,
    pagerOf: (layers, runFolder) =>
      pagers.starterOf({ imagePath, layers, sizeBytes }, none, runFolder),
  };
}

/** Makes a rig. @param folder An empty folder; the caller removes it. */
export async function makeFakeFirecrackerRig(
  folder: string,
  options: FirecrackerOptions = {},
): Promise<ConformanceRig> {
  const program = await installFakeFirecracker(join(folder, "bin"));
  const driver = new FirecrackerDriver({ program, ...options });
  const files = join(folder, "template");
  await mkdir(files);
  const path = (name: string): string => join(files, name);
  await writeFile(path("vmlinux"), "\x7fELF and the rest of a kernel", "latin1");
  await writeFile(path("initramfs"), "initramfs");
  await writeFile(path("disk.raw"), Buffer.alloc(diskBytes));
  const machine: MachineShape = {
    vcpuCount: 1,
    memoryMiB,
    kernelPath: path("vmlinux"),
    initramfsPath: path("initramfs"),
    kernelArguments: "console=ttyS0",
    guestMac,
  };
  const network: ConformanceRig["network"] = () => createNetwork("namespace", guestAddressing);
  const rig: ConformanceRig = {
    ...{ driver, machine, diskBytes, folder, network },
    imagePath: path("memory.img"),
    deviceStatePath: path("device.state"),
    disk: { path: path("disk.raw"), format: "raw" },
    // The page of the guest's generation.
    pagesRenewedMax: 1,
    remember: async ({ vm }, text) => void (await inGuest(vm, "/fake/remember", text)),
    recall: async ({ vm }) => {
      const { memory, disk } = JSON.parse(await inGuest(vm, "/fake/recall")) as Remembered;
      return { memory, disk };
    },
  };
  await bootTemplate(rig);
  return rig;
}

async function bootTemplate(rig: ConformanceRig): Promise<void> {
  const deadline = Deadline.after(30_000, "making the template");
  const runFolder = join(rig.folder, "boot");
  await mkdir(runFolder);
  using network = await rig.network();
  using attachment = network.attachment;
  const vm = await rig.driver.boot(
    {
      name: "template",
      machine: rig.machine,
      memoryPath: rig.imagePath,
      disk: [rig.disk],
      network: attachment,
      runFolder,
    },
    deadline,
  );
  await vm.holdVcpus(deadline);
  await vm.saveDeviceState(rig.deviceStatePath, deadline);
  await vm.flushDisk(deadline);
  await vm.end(deadline);
}
