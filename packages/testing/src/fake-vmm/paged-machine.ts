/**
 * Fake VMs whose memory a daemon's own pagers bring: each has a companion process with real page
 * faults, which touches the pages that a guest touches until it is ready. VM and process end
 * together.
 */
import { Deadline } from "@torpor/std";
import { join } from "node:path";
import { type Pager, QemuDriver, type StartPager, type Vm, type VmmDriver } from "@torpor/vmm";
import type { Pagers } from "@torpor/host";
import { PagedGuest } from "../paged-guest/paged-guest.ts";
import { FakeDriver } from "./fake-driver.ts";
import { FakeMachine } from "./fake-machine.ts";

const endBudgetMs = 10_000;
const bytesPerMiB = 1024 * 1024;

/** A fake machine whose VMs have companions. */
export class PagedMachine implements AsyncDisposable {
  readonly machine = new FakeMachine();
  readonly #touchedPages: readonly number[];
  /** The companions by the folders of their runs. */
  readonly #guests = new Map<string, PagedGuest>();

  constructor(touchedPages: readonly number[]) {
    this.#touchedPages = touchedPages;
  }

  /** A driver for one daemon, which owns these pagers. */
  driver(pagers: Pagers): VmmDriver {
    const { machine } = this;
    const fake = new FakeDriver(machine, async (_name, call) => await call());
    const finder = new QemuDriver({ accelerator: "tcg" });
    return {
      takesPager: true,
      identity: () => fake.identity(),
      guestVisible: () => fake.guestVisible(),
      boot: () => fake.boot(),
      restore: async (spec, deadline) => {
        const { startPager, runFolder, machine: shape } = spec;
        const vm = await fake.restore(spec);
        if (startPager === undefined) return vm;
        const sizeBytes = shape.memoryMiB * bytesPerMiB;
        const pager = await this.#start(runFolder, sizeBytes, startPager, deadline);
        for (const { startBytes, endBytes } of pager.memory.ranges) {
          const content = Buffer.alloc(endBytes - startBytes);
          pager.memory.read(startBytes, content);
          machine.find(vm.handle).memory.writeAt(startBytes, content);
        }
        return this.#join(vm, pager);
      },
      adopt: async (handle, deadline) => {
        const vm = await fake.adopt(handle);
        if (!this.#guests.has(handle.runFolder)) return vm;
        return this.#join(vm, await pagers.adopt(handle.runFolder, deadline));
      },
      processesBelow: async (folder) => {
        const vms = await fake.processesBelow(folder);
        const known = new Set(vms.map(({ runFolder }) => runFolder));
        const others = await finder.processesBelow(folder);
        return [...vms, ...others.filter(({ runFolder }) => !known.has(runFolder))];
      },
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const process of this.machine.processes) this.machine.end(process);
    for (const guest of this.#guests.values()) await guest[Symbol.asyncDispose]();
  }

  async #start(
    runFolder: string,
    sizeBytes: number,
    startPager: StartPager,
    deadline: Deadline,
  ): Promise<Pager> {
    const socketPath = join(runFolder, "pager.sock");
    const pager = await startPager({ runFolder, socketPath, userId: 0 }, deadline);
    const firstTask = { kind: "touch", pages: this.#touchedPages } as const;
    const spec = { regionBytes: [sizeBytes], threads: 1, socketPath, firstTask };
    const guest = await PagedGuest.start(spec, deadline);
    await guest.first;
    this.#guests.set(runFolder, guest);
    return pager;
  }

  /** ORDER: the VM ends before its pager, which ends when the companion process does. */
  #join(vm: Vm, pager: Pager): Vm {
    const { runFolder } = vm.handle;
    const end = async (deadline: Deadline): Promise<void> => {
      await vm.end(deadline);
      await this.#guests.get(runFolder)?.[Symbol.asyncDispose]();
      await pager.end(deadline);
    };
    void pager.ended.then(() => end(Deadline.after(endBudgetMs, "ending a fake VM")));
    const exited = vm.exited.then(async (exit) => {
      const reason = await pager.ended;
      return reason === undefined ? exit : { reason, ...exit };
    });
    const release = (): void => {
      vm.release();
      pager.release();
    };
    const own: Partial<Vm> = { end, exited, release };
    return new Proxy(vm, {
      get(target, property) {
        if (property in own) return own[property as keyof Vm];
        const value: unknown = Reflect.get(target, property, target);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
  }
}
