/**
 * QEMU's command line for a Torpor guest: the microvm machine with one disk, one network card and a
 * serial console.
 *
 * The guest-visible part (machine, CPU, memory size, devices and their order) is a function of
 * `MachineShape` and the accelerator alone, because saved device state loads only into the very
 * same machine. Host-side parts (paths, network backend, memory sharing) may differ from run to
 * run.
 */
import { basename, dirname, join } from "node:path";
import type { JsonObject } from "@torpor/std";
import type { Accelerator, DiskLayer, MachineShape, NetworkAttachment, VmSpec } from "../driver.ts";
import type { RecognisedProcess } from "../process.ts";
import { runFiles } from "../run-files.ts";

/** LIMIT: TCG keeps translated code; a sandbox rarely needs more, and every sandbox pays for it. */
const tcgCodeCacheMiB = 128;
/** The TAP descriptor in the child: the first one after standard error. */
export const tapChildFd = 3;

/** `boot` powers on; `restore` waits for saved device state. */
export type StartMode = "boot" | "restore";

/** All of QEMU's arguments for this VM, without the program itself. */
export function commandLine(
  spec: VmSpec,
  accelerator: Accelerator,
  mode: StartMode,
): readonly string[] {
  const { machine } = spec;
  const guestVisible = machineArguments(machine, accelerator);
  return [
    ["-name", `torpor-${spec.name}`],
    ["-display", "none"],
    ["-accel", accelerator === "kvm" ? "kvm" : emulation(machine.vcpuCount)],
    guestVisible.machine,
    ["-object", memoryBackend(spec, mode)],
    mode === "boot" ? bootArguments(machine) : [],
    ...spec.disk.map((layer, index) => [
      "-blockdev",
      JSON.stringify(blockNode(layer, index, index === spec.disk.length - 1)),
    ]),
    ["-netdev", networkBackend(spec.network)],
    [
      "-chardev",
      `file,id=console,append=on,path=${escaped(join(spec.runFolder, runFiles.console))}`,
    ],
    guestVisible.devices,
    ["-qmp", `unix:${escaped(join(spec.runFolder, runFiles.control))},server=on,wait=off`],
    // QEMU starts no program and gains no privilege once it runs.
    ["-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"],
    mode === "restore" ? restoreArguments : [],
  ].flat();
}

/**
 * The guest-visible arguments, in order: saved device state loads only into the very same machine.
 * The two parts are separate because devices name backends that must come before them.
 */
export function machineArguments(
  machine: MachineShape,
  accelerator: Accelerator,
): { readonly machine: readonly string[]; readonly devices: readonly string[] } {
  return {
    machine: [
      ["-nodefaults", "-no-user-config", "-no-reboot"],
      // No description of the saved fields: `xen-save-devices-state` writes none, and QEMU 10.0
      // fails an assertion when it saves again after such a load.
      ["-machine", "microvm,rtc=on,memory-backend=ram,suppress-vmdesc=on"],
      ["-cpu", accelerator === "kvm" ? "host,migratable=on" : "max"],
      ["-smp", String(machine.vcpuCount)],
      ["-m", `${machine.memoryMiB}M`],
    ].flat(),
    devices: [
      ["-device", "virtio-blk-device,drive=disk"],
      ["-device", `virtio-net-device,netdev=net,mac=${machine.guestMac}`],
      ["-serial", "chardev:console"],
    ].flat(),
  };
}

/** Recognises a QEMU of ours by the folder of its control socket. */
export function recogniseQemu(argv: readonly string[]): RecognisedProcess | undefined {
  if (!argv.some((argument) => argument.startsWith("torpor-"))) return undefined;
  const control = argv[argv.indexOf("-qmp") + 1] ?? "";
  const path = /^unix:(.*),server=on/.exec(control)?.[1]?.replaceAll(",,", ",");
  return path === undefined ? undefined : { runFolder: dirname(path), isVmm: true };
}

/**
 * Only for a boot: a restored guest has its kernel in memory, but QEMU would read the files all the
 * same, a tenth of its start.
 */
function bootArguments(machine: MachineShape): readonly string[] {
  return [
    ["-kernel", machine.kernelPath],
    ["-initrd", machine.initramfsPath],
    ["-append", machine.kernelArguments],
  ].flat();
}

/**
 * One vCPU needs no atomic instructions between emulated CPUs: measured, a wake is a tenth faster.
 */
function emulation(vcpuCount: number): string {
  return `tcg,thread=${vcpuCount === 1 ? "single" : "multi"},tb-size=${tcgCodeCacheMiB}`;
}

/**
 * State from `xen-save-devices-state` carries no configuration section, so none is expected. A VM
 * that was started this way writes none either when it saves, its memory included.
 */
const restoreArguments = [
  // The vCPUs stay held when the state is loaded, because it says that the VM ran when it was
  // saved.
  ["-S"],
  ["-incoming", "defer"],
  ["-global", "migration.send-configuration=off"],
].flat();

function memoryBackend(spec: VmSpec, mode: StartMode): string {
  // A restored VM maps the image privately: the file is opened read-only and can never be changed,
  // not even by a balloon or a hole punched in the guest's memory.
  const sharing = mode === "boot" ? "share=on" : "share=off,readonly=on,rom=off";
  const size = `size=${spec.machine.memoryMiB}M`;
  return `memory-backend-file,id=ram,${size},mem-path=${escaped(spec.memoryPath)},${sharing}`;
}

/**
 * One layer as a named node over the one before it, so that no path stored inside a qcow2 file is
 * trusted. Each is an argument of its own, because Linux limits the length of one.
 */
export function blockNode(layer: DiskLayer, index: number, isTop: boolean): object {
  return {
    driver: layer.format,
    "node-name": isTop ? "disk" : `layer${index}`,
    "read-only": !isTop,
    file: fileNode(layer, !isTop),
    ...(index > 0 ? { backing: `layer${index - 1}` } : {}),
    ...(isTop ? whatGuestsFree : {}),
  };
}

/** A qcow2 layer to be added on top of a running VM's disk. */
export function overlayNode(path: string): { readonly "node-name": string } & JsonObject {
  return {
    driver: "qcow2",
    "node-name": layerName(path),
    file: fileNode({ path, format: "qcow2" }, false),
    backing: null,
    ...whatGuestsFree,
  };
}

/** A sealed qcow2 layer for a running VM, over a node that it has. */
export function sealedNode(
  path: string,
  backing: string,
): { readonly "node-name": string } & JsonObject {
  return {
    driver: "qcow2",
    "node-name": layerName(path),
    "read-only": true,
    file: fileNode({ path, format: "qcow2" }, true),
    backing,
  };
}

/** The options with which a layer that a guest has written to is rebased to another node. */
export function movedNode(node: string, file: string, backing: string, isTop: boolean): JsonObject {
  return {
    driver: "qcow2",
    "node-name": node,
    "read-only": !isTop,
    file,
    backing,
    ...whatGuestsFree,
  };
}

/**
 * Name of a layer's file node. It identifies a layer whatever the node above is called: QEMU calls
 * the first top layer "disk".
 */
export function fileNodeName(path: string): string {
  return `${layerName(path)}.file`;
}

function fileNode({ path, format }: DiskLayer, readOnly: boolean): JsonObject {
  return {
    driver: "file",
    filename: path,
    ...(readOnly ? { "read-only": true } : {}),
    ...(format === "qcow2" ? { "node-name": fileNodeName(path) } : {}),
  };
}

/**
 * A layer's file name without ".qcow2": QEMU accepts 31 characters for a node's name, and this has
 * fewer.
 */
function layerName(path: string): string {
  return basename(path, ".qcow2");
}

/** Blocks that a guest discards or zeroes take no room in its layer. */
const whatGuestsFree = { discard: "unmap", "detect-zeroes": "unmap" };

function networkBackend(network: NetworkAttachment): string {
  if (network.kind === "tap") return `tap,id=net,fd=${tapChildFd}`;
  const subnet = `${network.gatewayAddress}/${network.guestPrefixBits}`;
  const forward = `hostfwd=tcp:127.0.0.1:${network.hostPort}-${network.guestAddress}:${network.guestPort}`;
  // restrict=on: the guest reaches neither the host nor anything beyond it.
  return `user,id=net,restrict=on,net=${subnet},host=${network.gatewayAddress},dhcpstart=${network.guestAddress},${forward}`;
}

/** QEMU's option syntax separates by commas; a doubled one is a literal comma. */
function escaped(path: string): string {
  return path.replaceAll(",", ",,");
}
