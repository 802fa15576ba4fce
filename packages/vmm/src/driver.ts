/**
 * The one interface to a virtual machine monitor, and its words.
 *
 * A driver starts a VM in one of two ways. `boot` powers on a machine whose memory is a shared file
 * that it fills; this happens once, for a template. `restore` starts from saved device state over a
 * memory image that stays untouched: the VM's own pages are private to its process. A restored VM
 * is returned with its vCPUs held, so that the caller can finish the memory before `releaseVcpus`.
 *
 *     const vm = await driver.restore(spec, deadline);   // vCPUs held
 *     await vm.loadMemory(content, deadline);            // unless its memory is the image's
 *     await vm.loadDeviceState(path, deadline);          // memory is complete before this
 *     await vm.releaseVcpus(deadline);                   // the guest goes on
 *     …
 *     await vm.holdVcpus(deadline);
 *     await vm.saveDeviceState(path, deadline);
 *     const changed = vm.memory.ownRanges();             // read while the vCPUs are held
 *     await vm.flushDisk(deadline);
 *     await vm.end(deadline);
 *
 * A VM outlives the process that started it: its `handle` is plain data, and `adopt` reaches it
 * again from another process. A handle names one process for certain (pid, start time, boot id), so
 * a stale one is refused rather than a stranger signalled.
 */
import type { Deadline, MemoryPiece, MemoryRange, TorporError } from "@torpor/std";
import type { StartPager } from "./firecracker/pager.ts";

export type Accelerator = "kvm" | "tcg";

/** What a snapshot's device state is tied to; a mismatch is refused before anything is loaded. */
export interface VmmIdentity {
  readonly vmm: "qemu" | "firecracker";
  readonly version: string;
  readonly accelerator: Accelerator;
  /** SHA-256, hex, of the CPU's vendor, family, model, stepping and feature flags. */
  readonly cpuFingerprint: string;
  /** Rate of the host's timestamp counter; a guest under emulation counts at it. */
  readonly tscKhz: number;
}

/** The machine a guest sees. Fixed at boot; every restore repeats it exactly. */
export interface MachineShape {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly kernelArguments: string;
  readonly guestMac: string;
}

export type DiskLayer = Readonly<{ path: string; format: "raw" | "qcow2" }>;

/** How the guest's network card is connected on the host. */
export type NetworkAttachment =
  | {
      readonly kind: "tap";
      /** Descriptor of the TAP device; the VM gets a copy. */
      readonly tapFd: number;
      readonly tapName: string;
      /** For a VM that opens the device by its name: closes the descriptor and keeps the device. */
      detachTap(): void;
      /** Runs a synchronous function in the namespace that the VM process shall live in. */
      inNamespace<T>(work: () => T): T;
    }
  | {
      readonly kind: "user";
      readonly guestAddress: string;
      readonly gatewayAddress: string;
      readonly guestPrefixBits: number;
      /** A port of the host's loopback and the one port of the guest it leads to. */
      readonly hostPort: number;
      readonly guestPort: number;
    };

/** Other sealed layers for the disk of a VM that runs, which say the same as those they replace. */
export interface LayerReplacement {
  /** One that the VM added or began with, and stays: all below it but the template's disk is replaced. */
  readonly above: DiskLayer;
  /** What it stands upon from now on, above the template's disk, oldest first. Some may be there already. */
  readonly below: readonly DiskLayer[];
  /** What the VM has no need of afterwards. */
  readonly replaced: readonly DiskLayer[];
}

export interface VmSpec {
  /** For the process list and messages; a sandbox or template id. */
  readonly name: string;
  readonly machine: MachineShape;
  readonly memoryPath: string;
  /** Oldest first; the last one is written to. */
  readonly disk: readonly DiskLayer[];
  readonly network: NetworkAttachment;
  /** Files that the VM will be asked to read once it runs, such as device state to load. */
  readonly readsLater?: readonly string[];
  /**
   * Brings its memory page by page, all of it: the image is not read, and `loadMemory` not called. For
   * a restore by a driver that `takesPager`.
   */
  readonly startPager?: StartPager;
  /** An existing folder of this run alone, for the control socket, the console and the log. */
  readonly runFolder: string;
}

/** Names one process for certain, across restarts of the daemon and of the machine. */
export interface VmHandle {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks after boot. */
  readonly startTicks: number;
  readonly bootId: string;
  readonly runFolder: string;
  readonly memoryPath: string;
  readonly memoryMiB: number;
  /** Of a process that is confined: the user it is, and its control group where there are any. */
  readonly userId?: number;
  readonly cgroup?: string;
  /** Of a VM under Firecracker. */
  readonly firecracker?: {
    /** Of the program that was started. */
    readonly version: string;
    readonly tapName: string;
    /** The process that serves the disk, of the same boot, and where. */
    readonly disk: { readonly pid: number; readonly startTicks: number; readonly target: string };
    /** Whether its memory comes from a pager. */
    readonly isPaged?: boolean;
  };
}

/** The part of a handle that names the process. */
export type ProcessName = Pick<VmHandle, "pid" | "startTicks" | "bootId">;

/** A VM's process, found by looking rather than remembered. */
export interface VmProcess extends ProcessName {
  readonly runFolder: string;
  end(deadline: Deadline): Promise<void>;
}

export interface VmExit {
  /** Why it was ended, if it was, and nobody asked for that. */
  readonly reason?: TorporError;
  /** The last lines of the guest's console, for the report. */
  readonly consoleTail: string;
  /** The last lines the VMM itself printed. */
  readonly vmmTail: string;
}

/** The guest's memory as offsets into its memory image. */
export interface GuestMemory {
  readonly sizeBytes: number;
  /** About how many bytes are the VM's own; may be asked while it runs. */
  estimateOwnBytes(): number;
  /**
   * Pages that may be the VM's own, in ascending order; all others are still the image's. Known, as
   * what `read` reads, while the vCPUs are held and the device state has been saved.
   */
  ownRanges(): readonly MemoryRange[];
  /**
   * Pages that the VM has used since it started, and some beside them, in ascending order; may be asked
   * while it runs. Undefined where that cannot be told: somebody else who keeps count gives the VMM its
   * memory, or a file does that is not its image.
   */
  usedRanges(): readonly MemoryRange[] | undefined;
  read(offsetBytes: number, into: Uint8Array): void;
  /**
   * Reads `ranges`, one behind the other, to an address of this process where there is room for them
   * until it settles: where that is faster than `read`.
   */
  readTo?(ranges: readonly MemoryRange[], address: number): Promise<void>;
}

/** What the memory of a VM to be restored is besides the image. */
export interface MemoryContent {
  /** The pages that `applyTo` writes, ascending. */
  ranges(): readonly MemoryRange[];
  applyTo(memory: { write(pieces: readonly MemoryPiece[]): Promise<void> }): Promise<void>;
}

export interface Vm {
  readonly handle: VmHandle;
  /** Of the running process, which may be older than what is installed by now. */
  readonly version: string;
  readonly memory: GuestMemory;
  /** Settles when the process has ended, for whatever reason. Never rejects. */
  readonly exited: Promise<VmExit>;
  holdVcpus(deadline: Deadline): Promise<void>;
  releaseVcpus(deadline: Deadline): Promise<void>;
  /** The words of its start, for the record. */
  commandLine(): readonly string[];
  /** Writes everything but memory to a new file; the VM can go on afterwards. */
  saveDeviceState(path: string, deadline: Deadline): Promise<void>;
  /** The VMM's own way, for when the one above does not work: everything, memory included, in one file. */
  saveWholeState(path: string, deadline: Deadline): Promise<void>;
  /** Before the device state, and at most once. */
  loadMemory(content: MemoryContent, deadline: Deadline): Promise<void>;
  loadDeviceState(path: string, deadline: Deadline): Promise<void>;
  /** Everything the guest wrote to its disk is in the top layer's file and flushed. */
  flushDisk(deadline: Deadline): Promise<void>;
  /** Makes an empty layer known, so that the next call takes no time. Nothing uses it yet. */
  openDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void>;
  /** From here on the guest writes into the layer opened last; the one before is sealed. */
  addDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void>;
  /** Undoes `openDiskLayer` for a layer that was not added. Safe to repeat. */
  closeDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void>;
  /**
   * Puts the disk upon other layers while the guest goes on. Nothing is copied, and files that stay are
   * not opened anew. A failure leaves the disk upon the layers it had, or upon the new ones; the next
   * call closes what was left open. Safe to repeat.
   * @throws vmm.failed when `above` is not open
   */
  replaceDiskLayers(replacement: LayerReplacement, deadline: Deadline): Promise<void>;
  /** Ends the process and waits for it. Safe to repeat. */
  end(deadline: Deadline): Promise<void>;
  /** Lets go of the process, which runs on; `adopt` reaches it again. `exited` never settles then. */
  release(): void;
  /** Whether the VMM itself holds the vCPUs because the host's disk failed a write. */
  isStalled(deadline: Deadline): Promise<boolean>;
}

export interface VmmDriver {
  /** Whether a VM that it restores may have its memory from a pager. */
  readonly takesPager: boolean;
  identity(): Promise<VmmIdentity>;
  /** Everything about a machine that its guest can see, as this driver would make it. */
  guestVisible(machine: MachineShape): readonly string[];
  /** Powers on; memory is written to `memoryPath`, which is created. */
  boot(spec: VmSpec, deadline: Deadline): Promise<Vm>;
  /** Starts over an existing memory image with the vCPUs held and no device state yet. */
  restore(spec: VmSpec, deadline: Deadline): Promise<Vm>;
  /** @throws vmm.exited when the process of the handle is gone. */
  adopt(handle: VmHandle, deadline: Deadline): Promise<Vm>;
  /** The processes of all VMs whose run folder is below `folder`, whoever started them. */
  processesBelow(folder: string): Promise<readonly VmProcess[]>;
}
