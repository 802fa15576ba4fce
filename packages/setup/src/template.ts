/**
 * The base template: a guest booted once, initialised, warmed up and saved, from which every
 * sandbox is restored.
 *
 * Its memory is a file that the booting VM shares; when the VM has ended, that file is the image
 * that all sandboxes map. The guest is quiet when it is saved (see the agent's prepare), so no
 * connection and no half-done work is in the image.
 *
 * The template's id is a hash of everything that decides its content, so an unchanged machine finds
 * it again, and a change of agent, kernel or VMM makes another beside it: sandboxes made from the
 * old one keep it, and the copy of the VMM that it was made with.
 */
import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type GuestLink, processClient } from "@torpor/guest";
import { type InitRequest, guestMac } from "@torpor/protocol";
import { Deadline, type ErrorCode, TorporError, runCommand } from "@torpor/std";
import {
  type SavedMachine,
  type StagedTemplate,
  type Template,
  TemplateStore,
  digestChunks,
  templatesFolder,
} from "@torpor/storage";
import {
  type Accelerator,
  FirecrackerDriver,
  QemuDriver,
  type Vm,
  type VmmDriver,
  type VmmIdentity,
  assertLoadable,
} from "@torpor/vmm";
import type { BaseImage } from "./base-image.ts";
import { withCacheLock } from "./layers.ts";
import {
  bootGeneration,
  bootGuest,
  kernelArgumentsOf,
  machineOf,
  whenEnded,
} from "./boot-guest.ts";
import type { Progress, Report } from "./progress.ts";
import type { VmmCopy } from "./vmm-copy.ts";
import type { VmmKind } from "./vmm-choice.ts";
import { extractVmlinux } from "./vmlinux.ts";

/** The name of the template that sandboxes are made from by default. */
export const baseTemplateName = "base";
/** Raise it when the way a template is booted or warmed up changes but none of its inputs does. */
const recipe = 4;
const copyBudgetMs = 5 * 60_000;
const bootBudgetMs = 3 * 60_000;
const initBudgetMs = 60_000;
const warmUpBudgetMs = 3 * 60_000;
const lastCommandBudgetMs = 10 * 60_000;
const saveBudgetMs = 2 * 60_000;
/** The set-up that holds the lock may have all of it to do. */
const lockBudgetMs = 30 * 60_000;

/** A program of the guest and its arguments. */
export type GuestCommand = readonly [string, ...string[]];

/**
 * Commands that run before the template is saved, so that the agent's code is compiled and the
 * programs that nearly every sandbox starts with are in memory.
 */
const warmUpCommands: readonly GuestCommand[] = [
  ["/bin/true"],
  ["/bin/bash", "-l", "-c", "true"],
  ["/usr/bin/python3", "-c", "print(1)"],
];
/** Measured: more rounds make no wake faster. */
const warmUpRounds = 12;
/**
 * Every wake would repeat the work that the agent and the guest's kernel have left after a prepare.
 */
const settleMs = 1_500;
const tscRoundingKhz = 50_000;

/** The inputs of a template. */
export interface TemplateOptions {
  readonly cacheFolder: string;
  readonly base: BaseImage;
  readonly vmm: VmmCopy;
  /** QEMU, in the form of the copy, unless given. */
  readonly vmmKind?: VmmKind;
  readonly accelerator: Accelerator;
  readonly progress: Progress;
  /** Memory of its guest; the usual size unless given. */
  readonly memoryMiB?: number | undefined;
  /** Commands that the guest runs last, for what they leave in memory. */
  readonly lastCommands?: readonly GuestCommand[] | undefined;
}

/**
 * Returns the template for these inputs, booting and saving it when it does not exist yet, and
 * gives it the name that sandboxes are made from. Safe to run twice at once: the second call waits.
 */
export async function prepareTemplate(options: TemplateOptions): Promise<Template> {
  const { cacheFolder, progress } = options;
  const driver = driverOf(options);
  const identity = await driver.identity();
  const templateId = idOf(options, identity);
  const store = new TemplateStore(templatesFolder(cacheFolder));
  const named = await findUsable(store, baseTemplateName, identity);
  if (named?.manifest.templateId === templateId) return named;
  return await withCacheLock(
    cacheFolder,
    Deadline.after(lockBudgetMs, "waiting for another set-up"),
    () => progress.note("Another set-up is making the template: waiting for it"),
    async () => {
      if ((await findUsable(store, templateId, identity)) === undefined) {
        await progress.step("Base template", (report) =>
          buildTemplate({ ...options, store, driver, identity, templateId, report }),
        );
      }
      await store.assignName(baseTemplateName, templateId);
      return await store.open(templateId);
    },
  );
}

function driverOf({ vmmKind, accelerator, vmm }: TemplateOptions): VmmDriver {
  if (vmmKind === "firecracker") return new FirecrackerDriver();
  return new QemuDriver({ accelerator, program: vmm.program });
}

function idOf(
  { base, vmm, vmmKind, memoryMiB, lastCommands = [] }: TemplateOptions,
  identity: VmmIdentity,
): string {
  // Two measurements of one machine differ a little; `assertLoadable` compares with tolerance.
  const rounded = { ...identity, tscKhz: Math.round(identity.tscKhz / tscRoundingKhz) };
  const commands = [warmUpCommands, ...lastCommands];
  // Firecracker's own checksum is part of its version.
  const copy = vmmKind === "firecracker" ? null : vmm.key;
  const inputs = [recipe, base.inputsHash, rounded, copy, machineOf(memoryMiB), ...commands];
  return createHash("sha256").update(JSON.stringify(inputs)).digest("hex").slice(0, 20);
}

/**
 * The template is missing, or made by another VMM or on another machine: another is made beside it.
 */
const unusable: readonly ErrorCode[] = ["template.missing", "snapshot.incompatible"];

async function findUsable(
  store: TemplateStore,
  reference: string,
  identity: VmmIdentity,
): Promise<Template | undefined> {
  try {
    const template = await store.open(reference);
    assertLoadable(template.manifest.identity, identity);
    return template;
  } catch (cause) {
    if (TorporError.is(cause) && unusable.includes(cause.code)) return undefined;
    throw cause;
  }
}

interface Build extends TemplateOptions {
  readonly store: TemplateStore;
  readonly driver: VmmDriver;
  readonly identity: VmmIdentity;
  readonly templateId: string;
  readonly report: Report;
}

async function buildTemplate(build: Build): Promise<void> {
  await using undo = new AsyncDisposableStack();
  build.report(0, "copying the disk");
  const staged = undo.use(await build.store.stage(build.templateId));
  await copyBaseFiles(build, staged);
  const runFolder = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-template-")), (folder) =>
    rm(folder, { recursive: true, force: true }),
  );
  build.report(0.2, "booting the guest");
  const { vm, link, init } = await bootGuest(
    {
      ...staged.files,
      name: build.templateId,
      driver: build.driver,
      disk: [{ path: staged.files.diskPath, format: "raw" }],
      memoryMiB: build.memoryMiB,
      runFolder,
    },
    Deadline.after(bootBudgetMs, "booting the template's guest"),
    undo,
  );
  build.report(0.6, "warming it up");
  await Promise.race([settleGuest(link, init, build.lastCommands), whenEnded(vm)]);
  build.report(0.9, "saving it");
  await saveVm(vm, link, staged);
  await staged.publish({
    format: "torpor-template-3",
    templateId: build.templateId,
    name: baseTemplateName,
    createdAtMs: Date.now(),
    identity: build.identity,
    ...(build.vmmKind === "firecracker" ? {} : { vmmCopy: build.vmm.key }),
    machine: savedMachine(build, staged),
    diskBytes: build.base.diskBytes,
    deviceState: await digestChunks(staged.files.deviceStatePath),
    hostKey: init.hostKey,
    generation: bootGeneration,
  });
}

function savedMachine(
  { driver, identity, memoryMiB }: Build,
  { files }: StagedTemplate,
): SavedMachine {
  const { kernelPath, initramfsPath } = files;
  const kernelArguments = kernelArgumentsOf(identity);
  const machine = { ...machineOf(memoryMiB), kernelArguments, guestMac };
  const guestVisible = driver.guestVisible({ ...machine, kernelPath, initramfsPath });
  return { ...machine, guestVisible };
}

async function copyBaseFiles({ base, vmmKind }: Build, { files }: StagedTemplate): Promise<void> {
  const deadline = Deadline.after(copyBudgetMs, "copying the base disk");
  const isUnpacked = vmmKind === "firecracker";
  if (isUnpacked) await extractVmlinux(base.kernelPath, files.kernelPath, deadline);
  const copies = [
    ...(isUnpacked ? [] : [[base.kernelPath, files.kernelPath] as const]),
    [base.initramfsPath, files.initramfsPath],
    [base.diskPath, files.diskPath],
  ] as const;
  for (const [from, to] of copies) {
    await runCommand(["cp", "--sparse=always", "--reflink=auto", from, to], deadline);
  }
}

/** Brings a booted guest into the state that sandboxes start from, page cache included. */
export async function settleGuest(
  link: GuestLink,
  init: InitRequest,
  lastCommands: readonly GuestCommand[] = [],
): Promise<void> {
  const deadline = Deadline.after(initBudgetMs, "initialising the template's guest");
  await link.init({ ...init, timestampMs: Date.now() }, deadline);
  const warmUp = Deadline.after(warmUpBudgetMs, "warming up the template's guest");
  for (let round = 0; round < warmUpRounds; round += 1) {
    for (const command of warmUpCommands) await runInGuest(link, command, warmUp);
  }
  for (const command of lastCommands) {
    const last = Deadline.after(lastCommandBudgetMs, "running a template's last command");
    await runInGuest(link, command, last);
  }
}

async function runInGuest(
  link: GuestLink,
  [cmd, ...args]: GuestCommand,
  deadline: Deadline,
): Promise<void> {
  const events = processClient(link, null).start(
    { process: { cmd, args }, stdin: false },
    { signal: deadline.signal },
  );
  for await (const { event } of events) {
    const end = event?.event.case === "end" ? event.event.value : undefined;
    if (end !== undefined && end.exitCode !== 0) {
      throw new TorporError("guest.refused", `${cmd} ended with ${end.status} in the template`);
    }
  }
}

async function saveVm(vm: Vm, link: GuestLink, { files }: StagedTemplate): Promise<void> {
  const deadline = Deadline.after(saveBudgetMs, "saving the template");
  link.closeIdle();
  await link.prepare("pause", deadline);
  await deadline.sleep(settleMs);
  await vm.holdVcpus(deadline);
  await vm.saveDeviceState(files.deviceStatePath, deadline);
  await vm.flushDisk(deadline);
  link[Symbol.dispose]();
  await vm.end(deadline);
}
