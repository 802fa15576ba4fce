/**
 * Requests to Firecracker, as data: every request that the driver makes is built here, so that all
 * of them can be compared with Firecracker's description of its API.
 *
 * A release refuses a request that has a field it does not know, so newer fields are sent only to
 * releases that have them.
 *
 * Never sent: `clock_realtime` (the guest's clocks would leap over the time on disk, and every
 * timer that became due then would fire at once; the agent sets the wall clock), and anything for
 * MMDS.
 */
import type { JsonObject } from "@torpor/std";
import type { MachineShape } from "../driver.ts";
import { type ReleaseNumber, isBefore, since } from "./version.ts";

/** One request to Firecracker's API. */
export interface ApiRequest {
  readonly method: "GET" | "PUT" | "PATCH";
  readonly path: string;
  readonly body?: JsonObject;
}

/**
 * The disk as the jailed process finds it; part of saved device state, so the same in every jail.
 */
export const diskInJail = "/disk";
const driveId = "disk";
const interfaceId = "net";
/**
 * Appended to the kernel arguments of every guest: no PCI to probe, and a reboot ends the process.
 */
const kernelArgumentsAdded = "pci=off reboot=k";

/**
 * LIMITS of one VM, so that none keeps the host's disk, its network or its entropy from the others.
 * They are far above what a sandbox needs for long.
 */
export interface RateLimits {
  readonly diskBytesPerSecond: number;
  readonly diskOperationsPerSecond: number;
  /** In each direction. */
  readonly networkBytesPerSecond: number;
  readonly networkPacketsPerSecond: number;
  readonly entropyBytesPerSecond: number;
}

/** The limits of a VM unless the driver was made with others. */
export const usualRateLimits: RateLimits = {
  diskBytesPerSecond: 512 * 2 ** 20,
  diskOperationsPerSecond: 50_000,
  networkBytesPerSecond: 256 * 2 ** 20,
  networkPacketsPerSecond: 200_000,
  entropyBytesPerSecond: 64 * 2 ** 10,
};

/** A bucket holds a tenth of a second's worth: short bursts pass, and long ones are smoothed. */
const refillMs = 100;

/** Reads the release of a running Firecracker. */
export const versionRequest: ApiRequest = { method: "GET", path: "/version" };

/** Reads the state of the VM. */
export const stateRequest: ApiRequest = { method: "GET", path: "/" };

/** The requests that power on a machine, in the order in which to send them. */
export function bootRequests(
  machine: MachineShape,
  tapName: string,
  limits: RateLimits,
): readonly ApiRequest[] {
  const { vcpuCount, memoryMiB, kernelPath, initramfsPath, kernelArguments, guestMac } = machine;
  return [
    put("/machine-config", {
      vcpu_count: vcpuCount,
      mem_size_mib: memoryMiB,
      // Every save asks for the pages that differ from the image.
      track_dirty_pages: true,
    }),
    put("/boot-source", {
      kernel_image_path: kernelPath,
      initrd_path: initramfsPath,
      boot_args: `${kernelArguments} ${kernelArgumentsAdded}`,
    }),
    put(`/drives/${driveId}`, {
      drive_id: driveId,
      path_on_host: diskInJail,
      is_read_only: false,
      // The initramfs mounts it; otherwise Firecracker would add words to the kernel's arguments.
      is_root_device: false,
      // A flush by the guest is a flush on the host.
      cache_type: "Writeback",
      // The other engine, Async, makes a restore slower by up to a tenth of a second.
      io_engine: "Sync",
      rate_limiter: diskLimiter(limits),
    }),
    put(`/network-interfaces/${interfaceId}`, {
      iface_id: interfaceId,
      host_dev_name: tapName,
      guest_mac: guestMac,
      rx_rate_limiter: networkLimiter(limits),
      tx_rate_limiter: networkLimiter(limits),
    }),
    put("/entropy", { rate_limiter: { bandwidth: bucket(limits.entropyBytesPerSecond) } }),
    put("/actions", { action_type: "InstanceStart" }),
  ];
}

/** The source of a restored VM's memory. */
export interface MemoryBackend {
  readonly kind: "File" | "Uffd";
  /** Path of the memory file, or of the socket on which a pager listens. */
  readonly path: string;
}

/** The inputs of `loadRequest`. */
export interface LoadOptions {
  readonly release: ReleaseNumber;
  readonly statePath: string;
  readonly memory: MemoryBackend;
  readonly tapName: string;
}

/** Loads a snapshot and leaves the vCPUs held. */
export function loadRequest({ release, statePath, memory, tapName }: LoadOptions): ApiRequest {
  return put("/snapshot/load", {
    snapshot_path: statePath,
    mem_backend: { backend_type: memory.kind, backend_path: memory.path },
    track_dirty_pages: true,
    resume_vm: false,
    network_overrides: [{ iface_id: interfaceId, host_dev_name: tapName }],
    // A large page would be copied whole for the first byte that is written to it.
    ...(isBefore(release, since.hugePagesAtLoad) ? {} : { huge_pages: "None" }),
  });
}

/** Sets the limits after a load: the saved ones are those of the host that saved. */
export function limitRequests(limits: RateLimits): readonly ApiRequest[] {
  return [
    patch(`/drives/${driveId}`, { drive_id: driveId, rate_limiter: diskLimiter(limits) }),
    patch(`/network-interfaces/${interfaceId}`, {
      iface_id: interfaceId,
      rx_rate_limiter: networkLimiter(limits),
      tx_rate_limiter: networkLimiter(limits),
    }),
  ];
}

/**
 * Saves while the vCPUs are held. A diff is written into the existing memory file, over what
 * changed.
 */
export function saveRequest(
  kind: "Full" | "Diff",
  statePath: string,
  memoryPath: string,
): ApiRequest {
  return put("/snapshot/create", {
    snapshot_type: kind,
    snapshot_path: statePath,
    mem_file_path: memoryPath,
  });
}

/** Holds or releases the vCPUs. Safe to repeat. */
export function runStateRequest(state: "Paused" | "Resumed"): ApiRequest {
  return patch("/vm", { state });
}

/** The machine as its guest can see it; saved device state loads only into the very same one. */
export function machineWords(machine: MachineShape): readonly string[] {
  const { vcpuCount, memoryMiB, guestMac } = machine;
  return [
    "firecracker",
    ...[`vcpus=${vcpuCount}`, `memory=${memoryMiB}M`],
    ...["virtio-mmio", "virtio-blk", `virtio-net,mac=${guestMac}`, "virtio-rng", "serial"],
  ];
}

function diskLimiter(limits: RateLimits): JsonObject {
  return {
    bandwidth: bucket(limits.diskBytesPerSecond),
    ops: bucket(limits.diskOperationsPerSecond),
  };
}

function networkLimiter(limits: RateLimits): JsonObject {
  return {
    bandwidth: bucket(limits.networkBytesPerSecond),
    ops: bucket(limits.networkPacketsPerSecond),
  };
}

function bucket(perSecond: number): JsonObject {
  return { size: Math.ceil((perSecond * refillMs) / 1000), refill_time: refillMs };
}

function put(path: string, body: JsonObject): ApiRequest {
  return { method: "PUT", path, body };
}

function patch(path: string, body: JsonObject): ApiRequest {
  return { method: "PATCH", path, body };
}
