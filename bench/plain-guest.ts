/**
 * The guest that sandboxes are made from, for tools that run it in their own way: the same kernel,
 * machine, disk, agent and warm-up, on the accelerator that the sandboxes have.
 *
 * Two things differ, both in favour of the other tool: its memory is plain memory of its process
 * and no file, and its network is QEMU's own, which needs no namespace.
 */
import { join } from "node:path";
import { GuestLink } from "@torpor/guest";
import { createNetwork } from "@torpor/network";
import { guestAddressing, guestMac } from "@torpor/protocol";
import {
  type GuestCommand,
  baseImage,
  firstInit,
  kernelArgumentsOf,
  machineOf,
  settleGuest,
} from "@torpor/setup";
import { Deadline } from "@torpor/std";
import { TemplateStore, createOverlay, templatesFolder } from "@torpor/storage";
import { type Accelerator, type VmSpec, commandLine } from "@torpor/vmm";

const bootBudgetMs = 300_000;
const answerBudgetMs = 60_000;

/** A guest whose VMM the caller starts. */
export class PlainGuest implements Disposable {
  readonly spec: VmSpec;
  readonly accelerator: Accelerator;
  readonly #init = firstInit("bench");
  readonly #dial: (port: number) => ReturnType<GuestLink["dial"]>;
  #link: GuestLink;

  private constructor(
    spec: VmSpec,
    accelerator: Accelerator,
    dial: (port: number) => ReturnType<GuestLink["dial"]>,
  ) {
    this.spec = spec;
    this.accelerator = accelerator;
    this.#dial = dial;
    this.#link = this.#newLink();
  }

  /** Makes its files in `folder`; the caller starts it. */
  static async prepare(
    cacheFolder: string,
    memoryMiB: number,
    folder: string,
    undo: AsyncDisposableStack,
  ): Promise<PlainGuest> {
    const { kernelPath, initramfsPath, diskPath, diskBytes } = await baseImage(cacheFolder);
    const template = await new TemplateStore(templatesFolder(cacheFolder)).open("base");
    const { identity } = template.manifest;
    const network = undo.use(await createNetwork("user", guestAddressing));
    const layer = join(folder, "disk.qcow2");
    await createOverlay(layer, diskBytes);
    const kernelArguments = kernelArgumentsOf(identity);
    const spec: VmSpec = {
      name: "bench",
      machine: {
        ...machineOf(memoryMiB),
        ...{ kernelPath, initramfsPath, kernelArguments, guestMac },
      },
      memoryPath: "",
      disk: [
        { path: diskPath, format: "raw" },
        { path: layer, format: "qcow2" },
      ],
      network: network.attachment,
      runFolder: folder,
    };
    return undo.use(new PlainGuest(spec, identity.accelerator, (port) => network.dial(port)));
  }

  /** QEMU's command line for this guest. */
  get argv(): readonly string[] {
    const { memoryMiB } = this.spec.machine;
    return commandLine(this.spec, this.accelerator, "boot").map((argument) =>
      argument.startsWith("memory-backend-file,id=ram,")
        ? `memory-backend-ram,id=ram,size=${memoryMiB}M`
        : argument,
    );
  }

  /** Waits for the boot, then does to the guest what becomes part of every template. */
  async settle(lastCommand: GuestCommand): Promise<void> {
    await this.#link.waitUntilReady(Deadline.after(bootBudgetMs, "a guest's boot"));
    await settleGuest(this.#link, this.#init, [lastCommand]);
    this.#link.closeIdle();
  }

  /** Waits until the agent answers on a new connection: those from before a restore are lost. */
  async answer(): Promise<void> {
    this.#link[Symbol.dispose]();
    this.#link = this.#newLink();
    await this.#link.waitUntilReady(Deadline.after(answerBudgetMs, "a restored guest's answer"));
    this.#link.closeIdle();
  }

  [Symbol.dispose](): void {
    this.#link[Symbol.dispose]();
  }

  #newLink(): GuestLink {
    return new GuestLink({ dial: this.#dial, hostKey: this.#init.hostKey });
  }
}
