/** Powers on a guest from its base files and waits for its agent; no sandbox is made this way. */
import { randomBytes, randomUUID } from "node:crypto";
import { GuestLink } from "@torpor/guest";
import { createNetwork, defaultNetworkKind } from "@torpor/network";
import { type InitRequest, entropyBytes, guestAddressing, guestMac } from "@torpor/protocol";
import { Deadline, TorporError } from "@torpor/std";
import type { DiskLayer, MachineShape, Vm, VmmDriver, VmmIdentity } from "@torpor/vmm";
import { emulatedKernelArgument, guestHostName } from "./guest-files.ts";
import { guestUserName } from "./rootfs.ts";

const usualMemoryMiB = 512;
/** The generation of a guest that was booted and never restored; every restore has a larger one. */
export const bootGeneration = 1;

const endBudgetMs = 15_000;

/** The machine of every guest; only its memory size may differ. */
export function machineOf(
  memoryMiB: number = usualMemoryMiB,
): Pick<MachineShape, "vcpuCount" | "memoryMiB"> {
  return { vcpuCount: 1, memoryMiB };
}

/** Inputs of a boot. */
export interface BootOptions {
  /** The VM's name in the process list. */
  readonly name: string;
  readonly driver: VmmDriver;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly disk: readonly DiskLayer[];
  /** The memory image; the boot creates it. */
  readonly memoryPath: string;
  /** The usual size of every template unless given. */
  readonly memoryMiB?: number | undefined;
  readonly runFolder: string;
}

/** A guest whose agent answers, before its first init. */
export interface BootedGuest {
  readonly vm: Vm;
  readonly link: GuestLink;
  /** The request that the agent needs first; its key authorises the host from then on. */
  readonly init: InitRequest;
}

/**
 * Boots a guest, which `undo` ends.
 * @throws vmm.exited with the console when the guest ends, guest.unreachable when it stays silent.
 */
export async function bootGuest(
  options: BootOptions,
  deadline: Deadline,
  undo: AsyncDisposableStack,
): Promise<BootedGuest> {
  const { driver, kernelPath, initramfsPath, memoryMiB, ...spec } = options;
  const network = undo.use(await createNetwork(defaultNetworkKind(), guestAddressing));
  using attachment = network.attachment;
  const kernelArguments = kernelArgumentsOf(await driver.identity());
  const vm = await driver.boot(
    {
      ...spec,
      machine: {
        ...machineOf(memoryMiB),
        ...{ kernelPath, initramfsPath, kernelArguments, guestMac },
      },
      network: attachment,
    },
    deadline,
  );
  undo.defer(() => vm.end(Deadline.after(endBudgetMs, "ending a booted guest")));
  const init = firstInit(options.name);
  const link = undo.use(
    new GuestLink({ dial: (port) => network.dial(port), hostKey: init.hostKey }),
  );
  await Promise.race([link.waitUntilReady(deadline), whenEnded(vm)]);
  return { vm, link, init };
}

/** Rejects when the VM ends, with the last lines of its console and VMM. */
export async function whenEnded(vm: Vm): Promise<never> {
  const { consoleTail, vmmTail } = await vm.exited;
  throw new TorporError("vmm.exited", `the guest ended: ${vmmTail}${consoleTail}`);
}

/**
 * Turns off hardening that protects a guest from itself: every user in it may become root, and the
 * hardening costs code on each system call; an emulated wake without it is measured 7 % faster.
 */
const withoutHardening = [
  ...["mitigations=off", "apparmor=0", "audit=0"],
  ...["init_on_alloc=0", "randomize_kstack_offset=off"],
];

/**
 * The kernel's command line. Under emulation it names the rate of the guest's timestamp counter:
 * left to measure it on a busy host, Linux gives up and hangs.
 */
export function kernelArgumentsOf(identity: VmmIdentity): string {
  const emulated = [
    ...[`tsc_early_khz=${identity.tscKhz}`, "tsc=reliable", emulatedKernelArgument],
    ...withoutHardening,
  ];
  return [
    ...["console=ttyS0", "quiet", "loglevel=4", "panic=-1", "reboot=t"],
    ...(identity.accelerator === "tcg" ? emulated : []),
  ].join(" ");
}

/** The first init request of a guest that was just booted. */
export function firstInit(name: string): InitRequest {
  return {
    reason: "create",
    // No sandbox keeps this identity; but the template then contains what taking it on once has
    // warmed up.
    machine: {
      hostname: guestHostName,
      machineId: randomBytes(16).toString("hex"),
      bootId: randomUUID(),
    },
    suspendedMs: 0,
    generation: bootGeneration,
    entropy: randomBytes(entropyBytes).toString("base64"),
    timestampMs: Date.now(),
    hostKey: randomBytes(32).toString("hex"),
    sandboxId: "template",
    templateId: name,
    accessToken: null,
    envVars: null,
    defaultUser: guestUserName,
    defaultWorkdir: null,
  };
}
