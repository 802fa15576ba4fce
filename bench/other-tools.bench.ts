/**
 * Pause and resume of an idle sandbox against the existing tools for a QEMU guest: `virsh save` and
 * `virsh restore` of libvirt, and QEMU's own `savevm` and `-loadvm`.
 *
 * All save the same guest: same kernel, machine, memory, disk and agent, booted and warmed up
 * alike, its page cache full. All end its process and start another. The steps that only a sandbox
 * has are shown, and left out of the comparison: the agent's preparation before a pause, and its
 * `init` after a resume. A resume is compared up to where the guest continues, which is when the
 * tools return; from there to the agent's first answer all guests do the same.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Daemon, Sandbox } from "@torpor/host";
import type { GuestCommand } from "@torpor/setup";
import { createSandbox, openBenchDaemon, runCommandIn } from "./bench-daemon.ts";
import { makeTemplate } from "./bench-template.ts";
import { startLibvirt } from "./libvirt.ts";
import { PlainGuest } from "./plain-guest.ts";
import { type Row, atLeast, median } from "./row.ts";
import { startSavevm } from "./savevm.ts";
import { type SavingCycle, settleMs, timeCycle } from "./saving-tool.ts";
import { temporaryFolder } from "./temporary-folder.ts";
import { timed, tookMs } from "./timing.ts";

const rounds = 7;

interface Size {
  readonly memoryMiB: number;
  /** Fills the guest's page cache, as in a guest that has been at work. */
  readonly fillPageCache: GuestCommand;
}

const readSystem = "find /usr /opt -xdev -type f -exec cat {} + >/dev/null";
const copySystem = "for n in 1 2 3; do cp -r /usr /var/tmp/copy$n; done; sync";

const usualSize: Size = { memoryMiB: 512, fillPageCache: ["/bin/sh", "-c", readSystem] };
/**
 * A little more than 2 GiB: QEMU's microvm with a disk and an initramfs does not boot with exactly
 * that.
 */
const largeSize: Size = {
  memoryMiB: 2050,
  fillPageCache: ["/bin/sh", "-c", `${readSystem}; ${copySystem}`],
};

interface OwnCycle extends SavingCycle {
  /** The whole pause and resume, with the steps that only a sandbox has. */
  readonly pauseMs: number;
  readonly resumeMs: number;
}

/** Medians. */
interface AllTimes {
  readonly own: OwnCycle;
  readonly virsh: SavingCycle;
  readonly savevm: SavingCycle;
}

interface SavingRatio {
  readonly save: number;
  readonly restore: number;
}

/** Measures guests of two sizes. */
export async function measureOtherTools(cacheFolder: string): Promise<readonly Row[]> {
  const usual = await measureAll(cacheFolder, usualSize);
  const large = await measureAll(cacheFolder, largeSize);
  return [
    ...rowsOf("512 MiB", usual),
    ...boundsOfUsual(usual),
    ...rowsOf("2 GiB", large),
    ...boundsOfLarge(large),
  ];
}

/** Measures in turns, so that any other load of the machine affects all alike. */
async function measureAll(cacheFolder: string, size: Size): Promise<AllTimes> {
  await using undo = new AsyncDisposableStack();
  const cycleOwn = await prepareOwn(cacheFolder, size, undo);
  const cycleVirsh = await prepareTool(cacheFolder, size, startLibvirt, undo);
  const cycleSavevm = await prepareTool(cacheFolder, size, startSavevm, undo);
  const own: OwnCycle[] = [];
  const virsh: SavingCycle[] = [];
  const savevm: SavingCycle[] = [];
  // One more than is counted: the first pays for what is done once.
  for (let round = 0; round <= rounds; round += 1) {
    own.push(await cycleOwn());
    virsh.push(await cycleVirsh());
    savevm.push(await cycleSavevm());
  }
  return {
    own: {
      ...mediansOf(own.slice(1)),
      pauseMs: median(own.slice(1).map(({ pauseMs }) => pauseMs)),
      resumeMs: median(own.slice(1).map(({ resumeMs }) => resumeMs)),
    },
    virsh: mediansOf(virsh.slice(1)),
    savevm: mediansOf(savevm.slice(1)),
  };
}

function mediansOf(cycles: readonly SavingCycle[]): SavingCycle {
  return {
    restoreMs: median(cycles.map(({ restoreMs }) => restoreMs)),
    answerMs: median(cycles.map(({ answerMs }) => answerMs)),
    saveMs: median(cycles.map(({ saveMs }) => saveMs)),
  };
}

/** Prepares a tool and its saved guest. @returns a function that runs one cycle */
async function prepareTool(
  cacheFolder: string,
  size: Size,
  start: typeof startLibvirt,
  undo: AsyncDisposableStack,
): Promise<() => Promise<SavingCycle>> {
  const folder = await temporaryFolder(undo);
  const guest = await PlainGuest.prepare(cacheFolder, size.memoryMiB, folder, undo);
  const tool = await start(guest, undo);
  await guest.settle(size.fillPageCache);
  await tool.save();
  return () => timeCycle(guest, tool);
}

async function prepareOwn(
  cacheFolder: string,
  { memoryMiB, fillPageCache }: Size,
  undo: AsyncDisposableStack,
): Promise<() => Promise<OwnCycle>> {
  const ownCache = await makeTemplate(cacheFolder, memoryMiB, fillPageCache, undo);
  const daemon = await openBenchDaemon(ownCache, undo);
  const sandbox = await createSandbox(daemon);
  undo.defer(async () => void (await daemon.sandboxes.remove(sandbox.record.id)));
  await runCommandIn(sandbox, "/bin/true");
  await sandbox.pause();
  return () => timeOwnCycle(daemon, sandbox);
}

/**
 * Times one cycle. Everything but the named steps, such as writing rows, counts as part of the
 * comparison.
 */
async function timeOwnCycle({ sandboxes }: Daemon, sandbox: Sandbox): Promise<OwnCycle> {
  let initMs = 0;
  let awakeMs = 0;
  const resumeMs = await timed(async () => {
    const { timings } = await sandbox.resume();
    initMs = tookMs(timings, "init");
    awakeMs = tookMs(timings, "wait until ready", "init");
  });
  await sleep(settleMs);
  let prepareMs = 0;
  const pauseMs = await timed(async () => {
    const { timings } = await sandbox.pause();
    prepareMs = tookMs(timings, "prepare");
  });
  await sandboxes.idle();
  return {
    restoreMs: resumeMs - awakeMs,
    answerMs: resumeMs - initMs,
    resumeMs,
    saveMs: pauseMs - prepareMs,
    pauseMs,
  };
}

/** Rows for a guest of one size, without a bound. */
function rowsOf(size: string, { own, virsh, savevm }: AllTimes): readonly Row[] {
  const times = [
    ["pause", own.pauseMs],
    ["pause but for the agent's preparation", own.saveMs],
    ["virsh save", virsh.saveMs],
    ["savevm and end", savevm.saveMs],
    ["resume", own.resumeMs],
    ["resume until the guest goes on", own.restoreMs],
    ["virsh restore", virsh.restoreMs],
    ["start with loadvm", savevm.restoreMs],
    ["resume to the agent's answer", own.answerMs],
    ["virsh restore to the agent's answer", virsh.answerMs],
    ["loadvm to the agent's answer", savevm.answerMs],
  ] as const;
  const ratios = [
    ["whole pause against virsh save", virsh.saveMs / own.pauseMs],
    ["whole pause against savevm", savevm.saveMs / own.pauseMs],
    ["resume to the agent's answer against virsh restore", virsh.answerMs / own.answerMs],
    ["resume to the agent's answer against loadvm", savevm.answerMs / own.answerMs],
  ] as const;
  return [
    ...times.map(([what, value]) => ({ row: `${size}: ${what}`, value, unit: "ms" })),
    ...ratios.map(([what, value]) => ({ row: `${size}: ${what}`, value, unit: "times faster" })),
  ];
}

/** How many times longer another tool's save and restore take than ours. */
function ratiosOf({ own, virsh, savevm }: AllTimes): Record<"virsh" | "savevm", SavingRatio> {
  const against = (tool: SavingCycle): SavingRatio => ({
    save: tool.saveMs / own.saveMs,
    restore: tool.restoreMs / own.restoreMs,
  });
  return { virsh: against(virsh), savevm: against(savevm) };
}

function boundsOfUsual(times: AllTimes): readonly Row[] {
  const { virsh, savevm } = ratiosOf(times);
  return [
    atLeast("512 MiB: pause against virsh save", virsh.save, "times faster", 5),
    atLeast("512 MiB: pause against savevm", savevm.save, "times faster", 5),
    atLeast("512 MiB: resume against virsh restore", virsh.restore, "times faster", 5),
    atLeast("512 MiB: resume against loadvm", savevm.restore, "times faster", 5),
  ];
}

function boundsOfLarge(times: AllTimes): readonly Row[] {
  const { virsh, savevm } = ratiosOf(times);
  return [
    atLeast("2 GiB: pause against virsh save", virsh.save, "times faster", 10),
    atLeast("2 GiB: pause against savevm", savevm.save, "times faster", 10),
    atLeast("2 GiB: resume against virsh restore", virsh.restore, "times faster", 10),
    atLeast("2 GiB: resume against loadvm", savevm.restore, "times faster", 10),
  ];
}
