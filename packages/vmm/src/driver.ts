/**
 * The one interface to a virtual machine monitor, and its terms.
 *
 * A driver starts a VM in one of two ways. `boot` powers on a machine whose memory is a shared file
 * that it fills; this happens once, for a template. `restore` starts from saved device state over a
 * memory image that stays untouched: the VM's own pages are private to its process. A restored VM
 * is returned with its vCPUs held, so that the caller can finish the memory before `releaseVcpus`.
 *
 *     const vm = await driver.restore(spec, deadline);   // vCPUs held
 *     await vm.loadMemory(content, deadline);            // unless its memory is the image's
 *     await vm.loadDeviceState(path, deadline);          // memory is complete before this
 *     await vm.releaseVcpus(deadline);                   // the guest continues
 *     …
 *     await vm.holdVcpus(deadline);
 *     await vm.saveDeviceState(path, deadline);
 *     const changed = vm.memory.ownRanges();             // read while the vCPUs are held
 *     await vm.flushDisk(deadline);
 *     await vm.end(deadline);
 *
 * A VM outlives the process that started it: its `handle` is plain data, and `adopt` connects to it
 * from another process. A handle identifies one process for certain (pid, start time, boot id), so
 * a stale handle is refused rather than another process signalled.
 */
import type { Deadline, MemoryPiece, MemoryRange, TorporError } from "@torpor/std";
import type { StartPager } from "./firecracker/pager.ts";

/** How a guest's instructions run: by hardware virtualization, or emulated. */
export type Accelerator = "kvm" | "tcg";

/**
 * The properties that a snapshot's device state depends on; a mismatch is refused before anything
 * is loaded.
 */
export interface VmmIdentity {
  readonly vmm: "qemu" | "firecracker";
  readonly version: string;
  readonly accelerator: Accelerator;
  /** SHA-256, hex, of the CPU's vendor, family, model, stepping and feature flags. */
  readonly cpuFingerprint: string;
  /** Rate of the host's timestamp counter; an emulated guest counts at that rate. */
  readonly tscKhz: number;
}

/** The machine that a guest sees. It is fixed at boot, and every restore repeats it exactly. */
export interface MachineShape {
  readonly vcpuCount: number;
  readonly memoryMiB: number;
  readonly kernelPath: string;
  readonly initramfsPath: string;
  readonly kernelArguments: string;
  readonly guestMac: string;
}

/**
 * One file of a guest's disk: the template's raw image, or a qcow2 layer over what lies below it.
 */
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
      /** Runs a synchronous function in the namespace that the VM process is to live in. */
      inNamespace<T>(work: () => T): T;
    }
  | {
      readonly kind: "user";
      readonly guestAddress: string;
      readonly gatewayAddress: string;
      readonly guestPrefixBits: number;
      /** A port of the host's loopback, and the one port of the guest to which it leads. */
      readonly hostPort: number;
      readonly guestPort: number;
    };

/**
 * Other sealed layers for the disk of a running VM, with the same content as those that they
 * replace.
 */
export interface LayerReplacement {
  /**
   * A layer that the VM added or began with, and that stays: all below it but the template's disk
   * is replaced.
   */
  readonly above: DiskLayer;
  /**
   * The new layers between the template's disk and `above`, oldest first. Some may be there
   * already.
   */
  readonly below: readonly DiskLayer[];
  /** Layers that the VM does not need afterwards. */
  readonly replaced: readonly DiskLayer[];
}

/** Everything that a driver needs to start a VM. */
export interface VmSpec {
  /** A sandbox or template id, for the process list and messages. */
  readonly name: string;
  readonly machine: MachineShape;
  /** The file that holds the guest's memory: created by `boot`, only read by `restore`. */
  readonly memoryPath: string;
  /** Oldest first; the guest writes to the last one. */
  readonly disk: readonly DiskLayer[];
  readonly network: NetworkAttachment;
  /** Files that the VM will have to read once it runs, such as device state to load. */
  readonly readsLater?: readonly string[];
  /**
   * Starts the process that brings the VM's whole memory page by page: the image is not read, and
   * `loadMemory` is not called. Only for a restore, by a driver that `takesPager`.
   */
  readonly startPager?: StartPager;
  /** An existing folder for this run alone: the control socket, the console and the log. */
  readonly runFolder: string;
}

/** Identifies one process for certain, across restarts of the daemon and of the machine. */
export interface VmHandle {
  readonly pid: number;
  /** Field 22 of /proc/PID/stat, clock ticks after boot. */
  readonly startTicks: number;
  readonly bootId: string;
  readonly runFolder: string;
  readonly memoryPath: string;
  readonly memoryMiB: number;
  /** Set for a confined process: its user, and its control group if it has one. */
  readonly userId?: number;
  readonly cgroup?: string;
  /** Set for a VM under Firecracker. */
  readonly firecracker?: {
    /** Version of the program that was started. */
    readonly version: string;
    readonly tapName: string;
    /**
     * The process that serves the disk, started in the same boot, and the file as which it serves
     * it.
     */
    readonly disk: { readonly pid: number; readonly startTicks: number; readonly target: string };
    /** Whether its memory comes from a pager. */
    readonly isPaged?: boolean;
  };
}

/** The part of a handle that identifies the process. */
export type ProcessName = Pick<VmHandle, "pid" | "startTicks" | "bootId">;

/** The processes of one VM, found in /proc rather than remembered. */
export interface VmProcess extends ProcessName {
  readonly runFolder: string;
  /** Kills all processes of the run and waits until they are gone. Safe to repeat. */
  end(deadline: Deadline): Promise<void>;
}

/** How a VM ended. */
export interface VmExit {
  /** Why the driver ended the VM without a request; undefined otherwise. */
  readonly reason?: TorporError;
  /** The last lines of the guest's console, for the report. */
  readonly consoleTail: string;
  /** The last lines that the VMM itself printed. */
  readonly vmmTail: string;
}

/** The guest's memory as offsets into its memory image. */
export interface GuestMemory {
  readonly sizeBytes: number;
  /** About how many bytes are the VM's own; may be called while it runs. */
  estimateOwnBytes(): number;
  /**
   * Pages that may be the VM's own, in ascending order; all others are still the image's. They are
   * known, as is what `read` returns, while the vCPUs are held and the device state has been saved.
   */
  ownRanges(): readonly MemoryRange[];
  /**
   * Pages that the VM has used since it started, and some beside them, in ascending order; may be
   * called while it runs. Undefined where this cannot be determined: a pager, which keeps count
   * itself, gives the VMM its memory, or a file does that is not its image.
   */
  usedRanges(): readonly MemoryRange[] | undefined;
  /** Fills `into` with memory from `offsetBytes` on. */
  read(offsetBytes: number, into: Uint8Array): void;
  /**
   * Reads `ranges`, one after the other, to an address of this process, where there must be room
   * for them until the promise settles. Present where this is faster than `read`.
   */
  readTo?(ranges: readonly MemoryRange[], address: number): Promise<void>;
}

/** The content of a VM's memory that differs from the image, to be loaded into a restored VM. */
export interface MemoryContent {
  /** The pages that `applyTo` writes, ascending. */
  ranges(): readonly MemoryRange[];
  /** Writes the content in pieces. */
  applyTo(memory: { write(pieces: readonly MemoryPiece[]): Promise<void> }): Promise<void>;
}

/** A running VM, from its start or adoption to `end` or `release`. */
export interface Vm {
  readonly handle: VmHandle;
  /** Version of the running VMM, which may be older than what is installed now. */
  readonly version: string;
  readonly memory: GuestMemory;
  /** Settles when the process has ended, for whatever reason. Never rejects. */
  readonly exited: Promise<VmExit>;
  /** Stops all vCPUs. The guest stays frozen until `releaseVcpus`. */
  holdVcpus(deadline: Deadline): Promise<void>;
  /** Lets the vCPUs run. */
  releaseVcpus(deadline: Deadline): Promise<void>;
  /** The command line that it was started with, for the record. */
  commandLine(): readonly string[];
  /** Writes everything but memory to a new file; the VM can continue afterwards. */
  saveDeviceState(path: string, deadline: Deadline): Promise<void>;
  /**
   * Saves everything in one file, memory included, by the VMM's own means; for when
   * `saveDeviceState` does not work.
   */
  saveWholeState(path: string, deadline: Deadline): Promise<void>;
  /** Loads memory, at most once and before the device state. */
  loadMemory(content: MemoryContent, deadline: Deadline): Promise<void>;
  /** Loads device state that `saveDeviceState` or `saveWholeState` wrote. The vCPUs stay held. */
  loadDeviceState(path: string, deadline: Deadline): Promise<void>;
  /**
   * On return, everything that the guest wrote to its disk is in the top layer's file and flushed.
   */
  flushDisk(deadline: Deadline): Promise<void>;
  /** Opens an empty layer in the VMM, so that `addDiskLayer` takes no time. Nothing uses it yet. */
  openDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void>;
  /**
   * From here on the guest writes into the layer that was opened last; the layer before it is
   * sealed.
   */
  addDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void>;
  /** Undoes `openDiskLayer` for a layer that was not added. Safe to repeat. */
  closeDiskLayer(layer: DiskLayer, deadline: Deadline): Promise<void>;
  /**
   * Rebases the disk to other layers while the guest runs. Nothing is copied, and files that stay
   * are not reopened. After a failure the disk has either its old or its new layers; the next call
   * closes what was left open. Safe to repeat.
   * @throws vmm.failed if `above` is not open
   */
  replaceDiskLayers(replacement: LayerReplacement, deadline: Deadline): Promise<void>;
  /** Ends the process and waits for it. Safe to repeat. */
  end(deadline: Deadline): Promise<void>;
  /**
   * Detaches from the process, which keeps running; `adopt` connects to it again. `exited` never
   * settles then.
   */
  release(): void;
  /** Whether the VMM itself holds the vCPUs because a write to the host's disk failed. */
  isStalled(deadline: Deadline): Promise<boolean>;
}

/** Starts VMs under one VMM, and connects to those that run. */
export interface VmmDriver {
  /** Whether a VM that it restores may get its memory from a pager. */
  readonly takesPager: boolean;
  /**
   * The VMM and machine on which `boot` and `restore` run; compare with `assertLoadable` before a
   * restore.
   * @throws vmm.missing, vmm.damaged
   */
  identity(): Promise<VmmIdentity>;
  /** Everything about a machine that its guest can see, as this driver would build it. */
  guestVisible(machine: MachineShape): readonly string[];
  /** Powers on a machine. Its memory is written to `memoryPath`, which is created. */
  boot(spec: VmSpec, deadline: Deadline): Promise<Vm>;
  /** Starts over an existing memory image, with the vCPUs held and no device state yet. */
  restore(spec: VmSpec, deadline: Deadline): Promise<Vm>;
  /** Connects to a running VM. @throws vmm.exited if the process of the handle is gone. */
  adopt(handle: VmHandle, deadline: Deadline): Promise<Vm>;
  /** Finds the processes of all VMs whose run folder is below `folder`, by any driver or daemon. */
  processesBelow(folder: string): Promise<readonly VmProcess[]>;
}
