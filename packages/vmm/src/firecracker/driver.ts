/**
 * The Firecracker driver: starts, restores and adopts guests under KVM, each in a jail, with a
 * process beside it that serves its disk.
 *
 * A failing start leaves no process behind and reports the last lines that were printed.
 * Firecracker exits when a load fails, so a VM is used for one load only.
 */
import { measureTscKhz } from "@torpor/native";
import { Deadline, TorporError, ignoreFailure, parseString } from "@torpor/std";
import { confineInCgroup, joinCgroup, removeCgroup } from "../cgroup.ts";
import type {
  MachineShape,
  NetworkAttachment,
  Vm,
  VmHandle,
  VmProcess,
  VmSpec,
  VmmDriver,
  VmmIdentity,
} from "../driver.ts";
import { cpuFingerprint } from "../identity.ts";
import { endProcess, isAlive, nameProcess, readExit } from "../process.ts";
import type { ConfinementOptions } from "../qemu/confinement.ts";
import { findVms } from "../running-vms.ts";
import { claimUserId, defaultUserIds } from "../user-ids.ts";
import { FirecrackerApi } from "./api.ts";
import { DiskExport, untilStarted } from "./disk-export.ts";
import { makeJail, spawnJailer } from "./jail.ts";
import { FirecrackerMemory } from "./memory.ts";
import type { AdoptPager, Pager } from "./pager.ts";
import {
  type FirecrackerProgram,
  type InspectedProgram,
  inspectProgram,
  installedFirecracker,
} from "./program.ts";
import {
  type RateLimits,
  bootRequests,
  machineWords,
  usualRateLimits,
  versionRequest,
} from "./requests.ts";
import { runPaths } from "./run-files.ts";
import { formatRelease, parseRelease } from "./version.ts";
import { FirecrackerVm, assertTap } from "./vm.ts";

const versionBudgetMs = 10_000;
const cleanupBudgetMs = 5_000;
const bytesPerMiB = 1024 * 1024;
/**
 * LIMITS of one VM besides the guest's memory: memory for all its processes and pages of their
 * files, and tasks.
 */
const overheadMiB = 256;
const taskCount = 128;

/** Options of `FirecrackerDriver`. */
export interface FirecrackerOptions {
  /** Defaults to the installed program. */
  readonly program?: FirecrackerProgram;
  /** Defaults to `usualRateLimits`. */
  readonly limits?: RateLimits;
  /**
   * The users of the jails and their control groups; defaults to `defaultUserIds` and no groups.
   */
  readonly confinement?: ConfinementOptions | undefined;
  /** Connects to the pager of a VM that was started with one. */
  readonly adoptPager?: AdoptPager;
}

/** Runs VMs under Firecracker. Needs root and KVM. */
export class FirecrackerDriver implements VmmDriver {
  readonly takesPager = true;
  readonly #options: FirecrackerOptions;
  readonly #limits: RateLimits;
  #program: Promise<InspectedProgram> | undefined;
  #identity: Promise<VmmIdentity> | undefined;

  constructor(options: FirecrackerOptions = {}) {
    this.#options = options;
    this.#limits = options.limits ?? usualRateLimits;
  }

  identity(): Promise<VmmIdentity> {
    this.#identity ??= this.#readIdentity().catch((cause: unknown) => {
      this.#identity = undefined; // the next call reads it again
      this.#program = undefined;
      throw cause;
    });
    return this.#identity;
  }

  guestVisible(machine: MachineShape): readonly string[] {
    return machineWords(machine);
  }

  async boot(spec: VmSpec, deadline: Deadline): Promise<Vm> {
    return await this.#start(spec, true, deadline);
  }

  async restore(spec: VmSpec, deadline: Deadline): Promise<Vm> {
    return await this.#start(spec, false, deadline);
  }

  async adopt(handle: VmHandle, deadline: Deadline): Promise<Vm> {
    const { firecracker: own } = handle;
    if (own === undefined) throw new TorporError("vmm.exited", "the VM is none of Firecracker's");
    const { bootId, runFolder } = handle;
    const diskProcess = { pid: own.disk.pid, startTicks: own.disk.startTicks, bootId };
    const alive = (): boolean => isAlive(handle) && isAlive(diskProcess);
    if (!alive()) throw new TorporError("vmm.exited", `process ${handle.pid} is gone`);
    await using undo = new AsyncDisposableStack();
    const pager = own.isPaged === true ? await this.#adoptPager(runFolder, deadline) : undefined;
    undo.defer(() => pager?.release());
    const memory =
      pager === undefined
        ? FirecrackerMemory.reach(handle)
        : new FirecrackerMemory(handle, pager.memory);
    const { control } = runPaths(runFolder);
    const api = await FirecrackerApi.connect(control, alive, deadline);
    undo.defer(() => api.close());
    const disk = await DiskExport.reach(diskProcess, runFolder, own.disk.target, deadline);
    undo.move();
    return new FirecrackerVm({
      ...{ handle, api, disk, memory, pager },
      version: own.version,
      release: parseRelease(own.version),
      limits: this.#limits,
      tapName: own.tapName,
      isBooted: false,
    });
  }

  processesBelow(folder: string): Promise<readonly VmProcess[]> {
    return findVms(folder);
  }

  async #start(spec: VmSpec, isBooted: boolean, deadline: Deadline): Promise<Vm> {
    const { network } = spec;
    assertTap(network);
    const program = await this.#inspect();
    const undo = new AsyncDisposableStack();
    try {
      const { handle, disk, pager } = await this.#startProcesses(
        { spec, network, program, isBooted },
        deadline,
        undo,
      );
      const { control } = runPaths(spec.runFolder);
      const api = await FirecrackerApi.connect(control, () => isAlive(handle), deadline);
      await assertRelease(api, program, deadline);
      const vm = new FirecrackerVm({
        ...{ handle, api, disk, isBooted, pager },
        version: program.version,
        release: program.release,
        memory: new FirecrackerMemory(handle, pager?.memory),
        limits: this.#limits,
        tapName: network.tapName,
      });
      if (!isBooted) return vm;
      for (const request of bootRequests(spec.machine, network.tapName, this.#limits)) {
        await api.send(request, deadline);
      }
      return vm;
    } catch (cause) {
      await ignoreFailure("the start's own failure is reported", undo.disposeAsync());
      const { vmmTail } = await readExit(spec);
      const failure = TorporError.from(cause, "vmm.failed");
      const said = vmmTail.trim();
      const words = said === "" ? "" : `; it said: ${said}`;
      throw new TorporError(failure.code, `${failure.rawMessage}${words}`, { cause });
    }
  }

  /**
   * ORDER: the disk must be there before the jail is made around it, and its process holds the user
   * id. The pager's socket must be there before a load, and so before anything of a guest's is in
   * the jail that could put something else in its place.
   */
  async #startProcesses(
    { spec, network, program, isBooted }: Start,
    deadline: Deadline,
    undo: AsyncDisposableStack,
  ): Promise<Started> {
    const { userIds = defaultUserIds, cgroups } = this.#options.confinement ?? {};
    using claimed = claimUserId(userIds);
    const { userId, lockFd } = claimed;
    const jail = makeJail(spec, program, userId, isBooted);
    const { runFolder, disk: layers, memoryPath } = spec;
    const { diskTarget: target, mounts } = jail;
    let cgroup: string | undefined;
    undo.defer(() => {
      if (cgroup !== undefined) removeCgroup(cgroup);
    });
    const socketPath = runPaths(runFolder).pager;
    const starting = spec.startPager?.({ runFolder, socketPath, userId }, deadline);
    const startedPager = starting?.catch(() => undefined); // `await starting` reports it
    undo.defer(async () => await (await startedPager)?.end(cleanup("ending a pager")));
    const disk = await DiskExport.start(
      { runFolder, layers, target, mounts, userId, lockFd },
      deadline,
    );
    undo.defer(() => endProcess(disk.process, cleanup("ending the process of a disk")));
    network.detachTap();
    const { pid: diskPid, startTicks } = disk.process;
    const child = spawnJailer(program, jail, { runFolder, diskPid }, network);
    child.unref();
    await deadline.race(untilStarted(child));
    const name = nameProcess(child.pid ?? 0);
    if (name === undefined) throw new TorporError("vmm.exited", "the jailer ended at once");
    undo.defer(() => endProcess(name, cleanup("ending a VM that did not start")));
    const pager = await starting;
    const others = pager === undefined ? [diskPid] : [diskPid, pager.pid];
    cgroup = limit({ ...name, userId }, spec, cgroups, others);
    const handle: VmHandle = {
      ...name,
      ...{ runFolder, memoryPath, userId },
      memoryMiB: spec.machine.memoryMiB,
      ...(cgroup === undefined ? {} : { cgroup }),
      firecracker: {
        version: program.version,
        tapName: network.tapName,
        disk: { pid: diskPid, startTicks, target },
        ...(pager === undefined ? {} : { isPaged: true }),
      },
    };
    return { handle, disk, pager };
  }

  async #adoptPager(runFolder: string, deadline: Deadline): Promise<Pager> {
    const { adoptPager } = this.#options;
    if (adoptPager !== undefined) return await adoptPager(runFolder, deadline);
    throw new TorporError("vmm.failed", "the pager of this VM cannot be reached");
  }

  #inspect(): Promise<InspectedProgram> {
    this.#program ??= inspectProgram(
      this.#options.program ?? installedFirecracker(),
      Deadline.after(versionBudgetMs, "asking Firecracker for its version"),
    ).catch((cause: unknown) => {
      this.#program = undefined;
      throw cause;
    });
    return this.#program;
  }

  async #readIdentity(): Promise<VmmIdentity> {
    return {
      vmm: "firecracker",
      version: (await this.#inspect()).version,
      accelerator: "kvm",
      cpuFingerprint: await cpuFingerprint(),
      tscKhz: await measureTscKhz(),
    };
  }
}

interface Start {
  readonly spec: VmSpec;
  readonly network: Extract<NetworkAttachment, { kind: "tap" }>;
  readonly program: InspectedProgram;
  readonly isBooted: boolean;
}

interface Started {
  readonly handle: VmHandle;
  readonly disk: DiskExport;
  readonly pager: Pager | undefined;
}

/**
 * An installed program may be replaced at any time: the inspected release must be the one that has
 * been started.
 */
async function assertRelease(
  api: FirecrackerApi,
  { release }: InspectedProgram,
  deadline: Deadline,
): Promise<void> {
  const answer = await api.send(versionRequest, deadline);
  const started = parseString(answer["firecracker_version"], "firecracker_version");
  if (formatRelease(parseRelease(started)) === formatRelease(release)) return;
  throw new TorporError(
    "snapshot.incompatible",
    `Firecracker ${started} has taken ${formatRelease(release)}'s place`,
  );
}

function limit(
  { pid, userId }: Pick<VmHandle, "pid" | "userId">,
  { name, machine }: VmSpec,
  cgroups: ConfinementOptions["cgroups"] | undefined,
  others: readonly number[],
): string | undefined {
  if (cgroups?.kind !== "usable") return undefined;
  const path = `${cgroups.parent}/${name}.${userId}`;
  const memoryBytes = (machine.memoryMiB + overheadMiB) * bytesPerMiB;
  confineInCgroup(path, pid, { memoryBytes, taskCount });
  for (const other of others) joinCgroup(path, other);
  return path;
}

function cleanup(what: string): Deadline {
  return Deadline.after(cleanupBudgetMs, what);
}
