/** The QEMU driver on real VMs, confined as the daemon confines them, does what every driver must do. */
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { GuestLink, processClient } from "@torpor/guest";
import { createNetwork, defaultNetworkKind } from "@torpor/network";
import { guestAddressing } from "@torpor/protocol";
import { firstInit } from "@torpor/setup";
import { Deadline } from "@torpor/std";
import {
  type Template,
  TemplateStore,
  defaultCacheFolder,
  templatesFolder,
  vmmCopyFolder,
} from "@torpor/storage";
import { type ConformanceRig, type ConformanceRun, testConformance } from "@torpor/testing";
import {
  QemuDriver,
  type Vm,
  copiedQemu,
  defaultUserIds,
  installedQemu,
  openCgroups,
} from "@torpor/vmm";

const guestBudgetMs = 60_000;

/** Speaks to the agents of VMs, each of which is told first that it woke. */
class Guests {
  readonly #hostKey: string;
  readonly #awake = new Set<Vm>();
  #generation = 1;

  constructor({ manifest: { hostKey } }: Template) {
    this.#hostKey = hostKey;
  }

  async run({ vm, network }: ConformanceRun, script: string): Promise<string> {
    const deadline = Deadline.after(guestBudgetMs, "the guest's part of the test");
    const hostKey = this.#hostKey;
    using link = new GuestLink({ dial: (port) => network.dial(port), hostKey });
    await link.waitUntilReady(deadline);
    if (!this.#awake.has(vm)) {
      this.#generation += 1;
      const init = { ...firstInit("conformance"), hostKey, generation: this.#generation };
      await link.init({ ...init, timestampMs: Date.now() }, deadline);
      this.#awake.add(vm);
    }
    const events = processClient(link, null).start(
      { process: { cmd: "/bin/sh", args: ["-c", script] }, stdin: false },
      { signal: deadline.signal },
    );
    const parts: Uint8Array[] = [];
    for await (const { event } of events) {
      if (event?.event.case !== "data") continue;
      const { output } = event.event.value;
      if (output.case === "stdout") parts.push(output.value);
    }
    return Buffer.concat(parts).toString();
  }
}

function makeRig(template: Template, folder: string): ConformanceRig {
  const { manifest, kernelPath, initramfsPath } = template;
  const { vmmCopy, identity } = manifest;
  const isRoot = process.getuid?.() === 0;
  const guests = new Guests(template);
  return {
    driver: new QemuDriver({
      accelerator: identity.accelerator,
      program:
        vmmCopy === undefined
          ? installedQemu()
          : copiedQemu(vmmCopyFolder(defaultCacheFolder(), vmmCopy), vmmCopy),
      confinement: isRoot ? { userIds: defaultUserIds, cgroups: openCgroups() } : undefined,
    }),
    machine: { ...manifest.machine, kernelPath, initramfsPath },
    imagePath: template.memoryPath,
    deviceStatePath: template.deviceStatePath,
    disk: { path: template.diskPath, format: "raw" },
    diskBytes: manifest.diskBytes,
    pagesRenewedMax: 0,
    folder,
    network: () => createNetwork(defaultNetworkKind(), guestAddressing),
    remember: async (run, text) => {
      const files = "/dev/shm/note /home/user/note";
      await guests.run(run, `for file in ${files}; do echo "${text}" >$file; done; sync`);
    },
    recall: async (run) => {
      // Not what is still in memory of the disk.
      const drop = `sudo sh -c "echo 3 >/proc/sys/vm/drop_caches"`;
      const printed = await guests.run(run, `${drop}; cat /dev/shm/note /home/user/note`);
      const [memory = "", disk = ""] = printed.split("\n");
      return { memory, disk };
    },
  };
}

test("QEMU is driven as every VMM", async (t) => {
  const template = await new TemplateStore(templatesFolder(defaultCacheFolder())).open("base");
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-conformance-"));
  await testConformance(t, makeRig(template, folder.path));
});
