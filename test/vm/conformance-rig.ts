/** A rig for the conformance tests of a VMM with real guests: those of a template that set-up made. */
import { GuestLink, processClient } from "@torpor/guest";
import { createNetwork, defaultNetworkKind } from "@torpor/network";
import { guestAddressing } from "@torpor/protocol";
import { firstInit } from "@torpor/setup";
import { Deadline } from "@torpor/std";
import type { Template } from "@torpor/storage";
import type { ConformanceRig, ConformanceRun } from "@torpor/testing";
import type { Vm, VmmDriver } from "@torpor/vmm";

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

/** @param pagesRenewedMax How many pages the VMM itself writes when it loads. */
export function makeGuestRig(
  driver: VmmDriver,
  template: Template,
  folder: string,
  pagesRenewedMax: number,
): ConformanceRig {
  const { manifest, kernelPath, initramfsPath } = template;
  const guests = new Guests(template);
  return {
    driver,
    machine: { ...manifest.machine, kernelPath, initramfsPath },
    imagePath: template.memoryPath,
    deviceStatePath: template.deviceStatePath,
    disk: { path: template.diskPath, format: "raw" },
    diskBytes: manifest.diskBytes,
    ...{ pagesRenewedMax, folder },
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
