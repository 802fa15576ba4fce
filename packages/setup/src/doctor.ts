/**
 * The checks of `torpor doctor`: can this machine run sandboxes, and if not, what should the user
 * do?
 *
 * Gathering the facts and judging them are separate, so that every failure can be tested without a
 * machine that has it. The doctor changes nothing and sends nothing anywhere. A check that is not
 * required only costs speed or a feature.
 */
import { constants } from "node:fs";
import { access, mkdir, readFile, readdir, readlink, statfs, writeFile } from "node:fs/promises";
import { release } from "node:os";
import { dirname, join } from "node:path";
import { inspectCgroups, qemuVersion } from "@torpor/vmm";
import { type NetworkKind, defaultNetworkKind, egressProblem } from "@torpor/network";
import {
  type Exposure,
  exposureOf,
  readSetting,
  stateExposures,
  stateFiles,
} from "@torpor/storage";
import { type AcceleratorVerdict, knownAccelerator } from "./accelerator.ts";
import { type OsRelease, loadOsRelease } from "./apt.ts";
import { installCommand, loadInstalledPackages, missingPackages } from "./debian-packages.ts";
import { type DeviceFacts, deviceAdvice, inspectDevice } from "./device.ts";
import { removeTree } from "./layers.ts";
import { findClosed, shareCommand } from "./shared-cache.ts";
import { type TemplateState, inspectTemplates } from "./template-check.ts";
import { type VmmCopyState, inspectVmmCopies } from "./vmm-copies.ts";

/** One line of the doctor's report. */
export interface Check {
  readonly name: string;
  readonly ok: boolean;
  /** The finding, in words. */
  readonly detail: string;
  /** One line: what the user should do; empty when the check passed. */
  readonly fix: string;
  /** False: sandboxes run without it. */
  readonly required: boolean;
}

/** The folders to examine. */
export interface DoctorOptions {
  /** Keeps sandboxes and snapshots. */
  readonly stateDir: string;
  /** Holds the key that seals secrets in the state folder. */
  readonly keyFile: string;
  /** Keeps the layers of `prepareBaseImage`. */
  readonly cacheDir: string;
  /** Lists the names of the templates that are ready. */
  readonly listTemplates?: () => Promise<readonly string[]>;
}

/** Everything that the checks judge. */
export interface DoctorFacts {
  readonly platform: string;
  readonly arch: string;
  readonly os: OsRelease;
  readonly isRoot: boolean;
  readonly nodeVersion: string;
  /** The kernel's release: "6.18.0". */
  readonly kernelRelease: string;
  /** Undefined if it is not installed. */
  readonly qemuVersion: string | undefined;
  readonly accelerator: AcceleratorVerdict | undefined;
  readonly kvmDevice: DeviceFacts;
  readonly tunDevice: DeviceFacts;
  /** `user`: QEMU's own network, which needs nothing of the host. */
  readonly networkKind: NetworkKind;
  readonly cacheDir: string;
  /** The first path of the cache that this user cannot read; undefined if there is none. */
  readonly closedCachePath: string | undefined;
  /** Why sandboxes cannot reach the internet; undefined if they can. */
  readonly egressProblem: string | undefined;
  /** Why VMs run without limits of memory and processes; undefined if they have them. */
  readonly cgroupProblem: string | undefined;
  /** The namespaces of `neededNamespaces` that the kernel lacks. */
  readonly missingNamespaces: readonly string[];
  readonly missingPackages: readonly string[];
  readonly diskFreeBytes: number;
  readonly memoryAvailableBytes: number;
  /** Why the state folder is not writable; undefined if it is. */
  readonly stateProblem: string | undefined;
  readonly stateDir: string;
  /** Paths by which other users could reach the state folder or the key file. */
  readonly exposures: readonly Exposure[];
  /** The key file if it does not exist although there are secrets for it to open. */
  readonly missingKeyFile: string | undefined;
  readonly layers: readonly string[];
  readonly vmmCopies: readonly VmmCopyState[];
  /** Names of the templates that are ready. */
  readonly templates: readonly string[];
  readonly templateStates: readonly TemplateState[];
}

const neededNamespaces: readonly string[] = ["net", "mnt", "pid"];
const qemuVersionMin = [7, 2] as const;
const nodeMajorMin = 24;
const debianVersionMin = 12;
/** The first kernel with the PAGEMAP_SCAN ioctl. */
const pagemapScanKernelMin = [6, 7] as const;
/** The base image takes 0.6 GiB, building it 1.5 GiB; the rest is for sandboxes. */
const diskFreeGiBMin = 4;
/** One guest of 512 MiB, QEMU, the daemon. */
const memoryAvailableGiBMin = 1;
const bytesPerGiB = 1024 ** 3;

/** Examines this machine. @returns the checks in the order they are shown */
export async function runDoctor(options: DoctorOptions): Promise<readonly Check[]> {
  return judge(await gatherFacts(options));
}

/** Judges facts; pure. @returns the checks in the order they are shown */
export function judge(facts: DoctorFacts): readonly Check[] {
  return [...judgeMachine(facts), ...judgeVirtualisation(facts), ...judgeState(facts)];
}

function judgeMachine(facts: DoctorFacts): readonly Check[] {
  const { os } = facts;
  const nodeMajor = Number.parseInt(facts.nodeVersion.replace(/^v/, ""), 10);
  const missing = facts.missingPackages;
  return [
    check(
      "machine",
      facts.platform === "linux" && facts.arch === "x64",
      `${facts.platform} ${facts.arch}, kernel ${facts.kernelRelease}`,
      "Use an x86-64 machine or VM that runs Linux.",
    ),
    check(
      "system",
      os.id === "debian" && (os.version === 0 || os.version >= debianVersionMin),
      os.prettyName,
      `Use Debian ${debianVersionMin} or newer.`,
    ),
    hint(
      "root",
      facts.isRoot,
      facts.isRoot ? "yes" : "no: VMs run unconfined as this user, and reach no network",
      "Sandboxes run without it; run the daemon as root to confine them and to let them out.",
    ),
    check(
      "node",
      nodeMajor >= nodeMajorMin,
      facts.nodeVersion,
      "Start through `npm start` or bin/bootstrap.mjs, which use the pinned Node.",
    ),
    check(
      "Debian packages",
      missing.length === 0,
      missing.length === 0 ? "all installed" : `missing: ${missing.join(", ")}`,
      `Run as root: ${installCommand(missing)}`,
    ),
  ];
}

function judgeVirtualisation(facts: DoctorFacts): readonly Check[] {
  const { accelerator } = facts;
  const qemu = facts.qemuVersion;
  const namespaces = facts.missingNamespaces;
  return [
    check(
      "QEMU",
      qemu !== undefined && atLeast(qemu, qemuVersionMin),
      qemu ?? "not installed",
      `Install QEMU ${qemuVersionMin.join(".")} or newer: run \`torpor up\` as root.`,
    ),
    hint(
      "KVM",
      accelerator?.accelerator === "kvm",
      accelerator?.reason ?? shownDevice[facts.kvmDevice.state]("/dev/kvm", "was not tried yet"),
      adviceOfKvm(facts),
    ),
    judgeTun(facts),
    check(
      "namespaces",
      namespaces.length === 0,
      namespaces.length === 0 ? neededNamespaces.join(", ") : `missing: ${namespaces.join(", ")}`,
      "Use a kernel built with namespaces, as Debian's are.",
    ),
    hint(
      "internet",
      facts.egressProblem === undefined,
      facts.egressProblem ?? "sandboxes reach it through the daemon",
      "Run as root, on a kernel from 5.9 on with BPF; sandboxes reach nothing without it.",
    ),
    hint(
      "cgroups",
      facts.cgroupProblem === undefined,
      facts.cgroupProblem ?? "memory and processes of each VM are limited",
      "Mount cgroup v2 with memory and pids, writable; without it the host's memory is the only limit.",
    ),
    hint(
      "PAGEMAP_SCAN",
      atLeast(facts.kernelRelease, pagemapScanKernelMin),
      `kernel ${facts.kernelRelease}`,
      `Pauses read the page map in full; a kernel from ${pagemapScanKernelMin.join(".")} on is faster.`,
    ),
  ];
}

const shownDevice: Readonly<
  Record<DeviceFacts["state"], (path: string, usable: string) => string>
> = {
  usable: (path, usable) => `${path} ${usable}`,
  closed: (path) => `${path} is there, and closed to this user`,
  dead: (path) => `${path} is there, and nothing answers behind it`,
  missing: (path) => `there is no ${path}`,
};

function adviceOfKvm({ accelerator, kvmDevice }: DoctorFacts): string {
  if (accelerator === undefined && kvmDevice.state === "closed") return deviceAdvice(kvmDevice);
  if (accelerator === undefined && kvmDevice.state === "usable") {
    return "Run `torpor up` as root: it tries KVM by booting a guest.";
  }
  return "Sandboxes run by software emulation, slower; use a machine with virtualisation for speed.";
}

function judgeTun({ networkKind, tunDevice }: DoctorFacts): Check {
  const name = "/dev/net/tun";
  if (networkKind === "user") {
    return check(name, true, "not needed: the network of sandboxes is QEMU's own", "");
  }
  const { state } = tunDevice;
  const fix =
    state === "closed"
      ? deviceAdvice(tunDevice)
      : "Load it with `modprobe tun`; in a container, pass the device in.";
  return check(name, state === "usable", shownDevice[state](name, "is there"), fix);
}

/** Root builds the base image; other users only use it. */
function judgeBaseImage({ isRoot, layers }: DoctorFacts): readonly Check[] {
  if (!isRoot) return [];
  const base = layers.some((name) => name.startsWith("base-"));
  const fix = "Run `torpor up`: it builds the base image.";
  return [check("base image", base, base ? "built" : "not built yet", fix)];
}

function judgeCache({ cacheDir, closedCachePath }: DoctorFacts): Check {
  return check(
    "cache folder",
    closedCachePath === undefined,
    closedCachePath === undefined
      ? `${cacheDir} is readable`
      : `${closedCachePath} is closed to this user`,
    `Run as root: ${shareCommand(cacheDir)}`,
  );
}

function judgeTemplates({ isRoot, templates, cacheDir }: DoctorFacts): Check {
  return check(
    "templates",
    templates.length > 0,
    templates.length > 0 ? templates.join(", ") : "none",
    isRoot
      ? "Run `torpor up`: it makes the base template."
      : `Run as root: ${shareCommand(cacheDir)}`,
  );
}

function judgeState(facts: DoctorFacts): readonly Check[] {
  return [
    check(
      "state folder",
      facts.stateProblem === undefined,
      facts.stateProblem ?? `${facts.stateDir} is writable`,
      `Make ${facts.stateDir} writable, or name another folder with TORPOR_HOME.`,
    ),
    judgeExposures(facts),
    check(
      "sealing key",
      facts.missingKeyFile === undefined,
      facts.missingKeyFile === undefined
        ? "there, or made when it is needed"
        : `${facts.missingKeyFile} is missing`,
      "Put it back from its backup; where there never was one, the daemon makes it.",
    ),
    check(
      "free disk",
      facts.diskFreeBytes >= diskFreeGiBMin * bytesPerGiB,
      gib(facts.diskFreeBytes),
      `Free at least ${diskFreeGiBMin} GiB on the disk that holds ${facts.stateDir}.`,
    ),
    check(
      "free memory",
      facts.memoryAvailableBytes >= memoryAvailableGiBMin * bytesPerGiB,
      gib(facts.memoryAvailableBytes),
      `Free at least ${memoryAvailableGiBMin} GiB of memory, or pause sandboxes.`,
    ),
    judgeCache(facts),
    ...judgeBaseImage(facts),
    judgeVmmCopies(facts.vmmCopies),
    judgeTemplates(facts),
    judgeTemplateFiles(facts.templateStates),
  ];
}

function judgeExposures({ exposures, stateDir }: DoctorFacts): Check {
  // Prefer one that the daemon will not tighten by itself.
  const worst = exposures.find(({ advice }) => advice !== undefined) ?? exposures[0];
  return check(
    "access",
    worst === undefined,
    worst === undefined ? `${stateDir} is its owner's alone` : `${worst.path} ${worst.why}`,
    worst?.advice ?? "Run `torpor down` and `torpor up`: the daemon tightens it when it starts.",
  );
}

function judgeTemplateFiles(states: readonly TemplateState[]): Check {
  const damaged = states.find(({ problem }) => problem !== undefined);
  return check(
    "template files",
    damaged === undefined,
    damaged?.problem?.rawMessage ?? `${states.length} as they were made`,
    "Delete the template's folder and run `torpor up`; its sandboxes need a copy of the old one.",
  );
}

/** A damaged copy that no template needs is harmless: nothing will run it. */
function judgeVmmCopies(copies: readonly VmmCopyState[]): Check {
  const used = copies.filter(({ isUsed }) => isUsed);
  const problem = used.find((copy) => copy.problem !== undefined)?.problem;
  const versions = used.map(({ version }) => version).join(", ");
  const unused = copies.length - used.length;
  const sound = [
    used.length === 0 ? "none needed yet" : versions,
    unused === 0 ? "" : `, and ${unused} that no template needs`,
  ].join("");
  return check(
    "copies of QEMU",
    problem === undefined,
    problem?.rawMessage ?? sound,
    problem?.advice ?? "",
  );
}

function check(name: string, ok: boolean, detail: string, fix: string): Check {
  return { name, ok, detail, fix: ok ? "" : fix, required: true };
}

/** A check that only affects how well Torpor will run. */
function hint(name: string, ok: boolean, detail: string, fix: string): Check {
  return { ...check(name, ok, detail, fix), required: false };
}

/** Gathers everything that the checks judge; changes nothing. */
export async function gatherFacts(options: DoctorOptions): Promise<DoctorFacts> {
  const { stateDir, cacheDir, keyFile } = options;
  const installed = await loadInstalledPackages().catch(() => new Map<string, string>());
  return {
    platform: process.platform,
    arch: process.arch,
    os: await loadOsRelease(),
    isRoot: process.getuid?.() === 0,
    nodeVersion: process.version,
    kernelRelease: release(),
    qemuVersion: await qemuVersion().catch(() => undefined),
    accelerator: await knownAccelerator(cacheDir).catch(() => undefined),
    kvmDevice: await inspectDevice("/dev/kvm"),
    tunDevice: await inspectDevice("/dev/net/tun"),
    networkKind: readSetting(process.env, "TORPOR_NETWORK") ?? defaultNetworkKind(),
    cacheDir,
    closedCachePath: await findClosed(cacheDir),
    egressProblem: egressProblem(),
    cgroupProblem: findCgroupProblem(),
    missingNamespaces: await findMissingNamespaces(),
    missingPackages: missingPackages(installed).map((one) => one.name),
    diskFreeBytes: await findFreeBytes(stateDir),
    memoryAvailableBytes: parseMemoryAvailable(await readText("/proc/meminfo")),
    stateProblem: await findStateProblem(stateDir),
    stateDir,
    exposures: [...stateExposures(stateDir), exposureOf(keyFile, "file")].filter(
      (one) => one !== undefined,
    ),
    missingKeyFile: (await isMissingKey(stateDir, keyFile)) ? keyFile : undefined,
    layers: await readdir(cacheDir).catch(() => []),
    vmmCopies: await inspectVmmCopies(cacheDir),
    templates: (await options.listTemplates?.().catch(() => undefined)) ?? [],
    templateStates: await inspectTemplates(cacheDir),
  };
}

/** Available memory in bytes; 0 when the text does not say. */
export function parseMemoryAvailable(meminfo: string): number {
  const kib = /^MemAvailable:\s+(\d+) kB/m.exec(meminfo)?.[1];
  return kib === undefined ? 0 : Number(kib) * 1024;
}

/** Whether the leading numbers of a version reach `least`. */
export function atLeast(version: string, least: readonly [number, number]): boolean {
  const [major = 0, minor = 0] = version.split(/[.-]/).map((part) => Number.parseInt(part, 10));
  return major > least[0] || (major === least[0] && minor >= least[1]);
}

function findCgroupProblem(): string | undefined {
  const cgroups = inspectCgroups();
  return cgroups.kind === "unusable" ? cgroups.why : undefined;
}

async function findMissingNamespaces(): Promise<readonly string[]> {
  const missing: string[] = [];
  for (const name of neededNamespaces) {
    const link = await readlink(`/proc/self/ns/${name}`).catch(() => undefined);
    if (link === undefined) missing.push(name);
  }
  return missing;
}

/** Free bytes of the nearest folder that exists. */
async function findFreeBytes(dir: string): Promise<number> {
  const found = await statfs(dir).catch(() => undefined);
  if (found !== undefined) return found.bavail * found.bsize;
  return dirname(dir) === dir ? 0 : findFreeBytes(dirname(dir));
}

async function findStateProblem(dir: string): Promise<string | undefined> {
  const existing = await nearestExisting(dir);
  if (existing !== dir) {
    return access(existing, constants.W_OK).then(
      () => undefined,
      () => `${existing} is not writable`,
    );
  }
  const probe = join(dir, `.doctor-${process.pid}`);
  try {
    await mkdir(probe);
    await writeFile(join(probe, "probe"), "x");
    await removeTree(probe);
    return undefined;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

async function isMissingKey(stateDir: string, keyFile: string): Promise<boolean> {
  return (await isThere(join(stateDir, stateFiles.database))) && !(await isThere(keyFile));
}

async function isThere(path: string): Promise<boolean> {
  return access(path).then(
    () => true,
    () => false,
  );
}

async function nearestExisting(dir: string): Promise<string> {
  return (await isThere(dir)) || dirname(dir) === dir ? dir : nearestExisting(dirname(dir));
}

async function readText(path: string): Promise<string> {
  return readFile(path, "utf8").catch(() => "");
}

function gib(bytes: number): string {
  return `${(bytes / bytesPerGiB).toFixed(1)} GiB`;
}
