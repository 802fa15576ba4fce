/**
 * What is asked of Firecracker, as data: every request that the driver makes is built here, so that
 * all of them can be compared with Firecracker's description of its API.
 *
 * A request with a field that a release does not know is refused as a whole, so fields that came later
 * are sent from the release on that has them.
 *
 * Never sent: `clock_realtime` (the guest's clocks would leap over the time on disk, and every timer
 * that is due meanwhile fire at once; the agent sets the wall clock), and whatever is for MMDS.
 */
import type { JsonObject } from "@torpor/std";
import type { MachineShape } from "../driver.ts";
import { type ReleaseNumber, isBefore, since } from "./version.ts";

export interface ApiRequest {
  readonly method: "GET" | "PUT" | "PATCH";
  readonly path: string;
  readonly body?: JsonObject;
}

/** The disk as the jailed process finds it; part of saved device state, so the same in every jail. */
export const diskInJail = "/disk";
const driveId = "disk";
const interfaceId = "net";
/** Behind what every guest is told: no PCI to probe, and a reboot ends the process. */
const kernelArgumentsAdded = "pci=off reboot=k";

/**
 * LIMITS of one VM, so that none keeps the host's disk, its network or its entropy from the others.
 * They are far above what a sandbox needs for long.
 */
export interface RateLimits {
  readonly diskBytesPerSecond: number;
  readonly diskOperationsPerSecond: number;
  /** Each way. */
  readonly networkBytesPerSecond: number;
  readonly networkPacketsPerSecond: number;
  readonly entropyBytesPerSecond: number;
}

export const usualRateLimits: RateLimits = {
  diskBytesPerSecond: 512 * 2 ** 20,
  diskOperationsPerSecond: 50_000,
  networkBytesPerSecond: 256 * 2 ** 20,
  networkPacketsPerSecond: 200_000,
  entropyBytesPerSecond: 64 * 2 ** 10,
};

/** A tenth of a second's worth at a time: short bursts pass, and long ones are smooth. */
const refillMs = 100;

export const versionRequest: ApiRequest = { method: "GET", path: "/version" };

export const stateRequest: ApiRequest = { method: "GET", path: "/" };

/** In this order, to power on. */
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
      // What differs from the image is asked for with every save.
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
      // The initramfs mounts it; Firecracker would only add words to the kernel's arguments.
      is_root_device: false,
      // What the guest flushes is flushed.
      cache_type: "Writeback",
      // The other one makes a restore slower by up to a tenth of a second.
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

/** Where a restored VM's memory comes from. */
export interface MemoryBackend {
  readonly kind: "File" | "Uffd";
  /** Of the memory file, or of the socket on which a pager listens. */
  readonly path: string;
}

export interface LoadOptions {
  readonly release: ReleaseNumber;
  readonly statePath: string;
  readonly memory: MemoryBackend;
  readonly tapName: string;
}

/** Leaves the vCPUs held. */
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

/** After a load: the limits that were saved are those of the host that saved. */
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

/** While the vCPUs are held. A diff goes into the memory file that is there, over what changed. */
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

/** Safe to repeat. */
export function runStateRequest(state: "Paused" | "Resumed"): ApiRequest {
  return patch("/vm", { state });
}

/** What the guest can see of its machine; saved device state loads only into the very same. */
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
