/**
 * Chooses whether guests run under KVM or under emulation (TCG).
 *
 * A present /dev/kvm proves nothing: on some hosts a guest hangs under it. So set-up chooses KVM
 * only after a guest has really come up under it, within a deadline. The verdict is kept until the
 * QEMU version, the host's kernel or the device itself changes.
 */
import { statSync } from "node:fs";
import { mkdtemp, readFile, rm, stat } from "node:fs/promises";
import { release, tmpdir } from "node:os";
import { join } from "node:path";
import { Deadline, TorporError, parseJson, parseObject, writeFileDurably } from "@torpor/std";
import { createOverlay } from "@torpor/storage";
import { type Accelerator, QemuDriver, type QemuProgram, qemuVersion } from "@torpor/vmm";
import type { BaseImage } from "./base-image.ts";
import { bootGuest } from "./boot-guest.ts";
import type { Progress } from "./progress.ts";

/** Ten times what a boot under working KVM takes. */
const standstillBudgetMs = 20_000;
/** For a guest that is slow but makes progress, on a machine that is itself emulated. */
const probeBudgetMs = 5 * 60_000;
const lookMs = 200;

/** The accelerator to use, and why. */
export interface AcceleratorVerdict {
  readonly accelerator: Accelerator;
  /** Why, in one line for the user. */
  readonly reason: string;
}

/** Inputs of a probe of KVM. */
export interface AcceleratorOptions {
  readonly cacheFolder: string;
  readonly base: BaseImage;
  /** The QEMU that will run the guests. */
  readonly program: QemuProgram;
  readonly progress: Progress;
}

/**
 * Returns the earlier verdict if it still holds, else probes KVM and keeps the verdict. @throws
 * vmm.missing
 */
export async function chooseAccelerator(options: AcceleratorOptions): Promise<AcceleratorVerdict> {
  const known = await knownAccelerator(options.cacheFolder);
  if (known !== undefined) return known;
  const verdict = await probe(options);
  const stored = JSON.stringify({ key: await verdictKey(), ...verdict });
  await writeFileDurably(verdictPath(options.cacheFolder), `${stored}\n`);
  return verdict;
}

/** Returns the verdict of an earlier probe, if it still holds. @throws vmm.missing */
export async function knownAccelerator(
  cacheFolder: string,
): Promise<AcceleratorVerdict | undefined> {
  return await readVerdict(verdictPath(cacheFolder), await verdictKey());
}

function verdictPath(cacheFolder: string): string {
  return join(cacheFolder, "accelerator.json");
}

async function verdictKey(): Promise<string> {
  const device = await stat("/dev/kvm").catch(() => undefined);
  return [await qemuVersion(), release(), device === undefined ? "no kvm" : device.rdev].join("|");
}

async function readVerdict(path: string, key: string): Promise<AcceleratorVerdict | undefined> {
  try {
    const stored = parseObject(parseJson(await readFile(path, "utf8"), path), path);
    if (stored["key"] !== key) return undefined;
    return {
      accelerator: stored["accelerator"] === "kvm" ? "kvm" : "tcg",
      reason: String(stored["reason"]),
    };
  } catch {
    return undefined; // not there or not readable: probe again
  }
}

async function probe({ base, program, progress }: AcceleratorOptions): Promise<AcceleratorVerdict> {
  if ((await stat("/dev/kvm").catch(() => undefined)) === undefined) {
    return { accelerator: "tcg", reason: "this machine has no /dev/kvm" };
  }
  return await progress.step("KVM probe", async (report) => {
    report(0, `booting a guest under KVM, up to ${standstillBudgetMs / 1000} s without progress`);
    try {
      await bootUnderKvm(base, program);
      return { accelerator: "kvm", reason: "a guest booted under KVM" };
    } catch (cause) {
      const [why] = TorporError.from(cause, "vmm.failed").rawMessage.split("\n", 1);
      const reason = `/dev/kvm is there, but a guest did not boot under it: ${why}`;
      return { accelerator: "tcg", reason };
    }
  });
}

/** Boots the base image up to the agent's first answer, then ends it. */
async function bootUnderKvm(base: BaseImage, program: QemuProgram): Promise<void> {
  await using undo = new AsyncDisposableStack();
  const folder = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-kvm-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
  const diskPath = join(folder, "disk.qcow2");
  await createOverlay(diskPath, base.diskBytes);
  const deadline = Deadline.after(probeBudgetMs, "booting under KVM");
  const memoryPath = join(folder, "memory.img");
  using watch = watchProgress(memoryPath);
  const booted = bootGuest(
    {
      name: "kvm-probe",
      driver: new QemuDriver({ accelerator: "kvm", program }),
      kernelPath: base.kernelPath,
      initramfsPath: base.initramfsPath,
      memoryPath,
      disk: [
        { path: base.diskPath, format: "raw" },
        { path: diskPath, format: "qcow2" },
      ],
      runFolder: folder,
    },
    deadline,
    undo,
  );
  await Promise.race([booted, watch.stoodStill]);
}

/**
 * `stoodStill` rejects when a guest has touched no new page of its memory for too long. A booting
 * guest touches new pages all the time; a hanging guest does not, and neither writes to the
 * console.
 */
function watchProgress(memoryPath: string): Disposable & { readonly stoodStill: Promise<never> } {
  const { promise: stoodStill, reject } = Promise.withResolvers<never>();
  const expect = (): Deadline => Deadline.after(standstillBudgetMs, "waiting for progress");
  let seenBlocks = 0;
  let next = expect();
  const timer = setInterval(() => {
    const { blocks = 0 } = statSync(memoryPath, { throwIfNoEntry: false }) ?? {};
    if (blocks > seenBlocks) next = expect();
    else if (next.expired) reject(new TorporError("guest.unreachable", "it stood still"));
    seenBlocks = blocks;
  }, lookMs);
  return { stoodStill, [Symbol.dispose]: () => clearInterval(timer) };
}
