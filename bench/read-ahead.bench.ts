/**
 * The gain of reading ahead for a create whose template's image is not in the page cache: with the
 * working set of an earlier create; without one, which reads all that the image holds; and with an
 * empty one, so that every page is loaded when the guest touches it.
 *
 * QEMU waits for the disk in major page faults, each of which brings 2 MiB, because QEMU asks for
 * huge pages. They are counted up to the end of init, like the time. The template is a copy that
 * nobody else maps; its image is dropped from the page cache before a cold create, and read before
 * a hot one.
 */
import { mkdir, open, readFile, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { dataRanges, dropFromCache } from "@torpor/native";
import { type WorkingSet, countPages, readWorkingSet, writeWorkingSet } from "@torpor/pager";
import type { Daemon } from "@torpor/host";
import { Deadline, runCommand } from "@torpor/std";
import { type Template, TemplateStore, stateFiles, templatesFolder } from "@torpor/storage";
import { createSandbox, openBenchDaemon } from "./bench-daemon.ts";
import { type Row, atLeast, atMost, median } from "./row.ts";
import { temporaryFolder } from "./temporary-folder.ts";

const repeats = 7;
const copyBudgetMs = 120_000;
const readBytes = 4 << 20;

type Ahead = "recorded" | "all" | "none";
type Heat = "cold" | "hot";

interface Create {
  readonly ms: number;
  /** QEMU's page faults that had to wait for the disk. */
  readonly majorFaults: number;
}

/** Measures creates in each way. */
export async function measureReadAhead(cacheFolder: string): Promise<readonly Row[]> {
  await using undo = new AsyncDisposableStack();
  const ownCache = await copyTemplate(cacheFolder, undo);
  const template = await new TemplateStore(templatesFolder(ownCache)).open("base");
  const daemon = await openBenchDaemon(ownCache, undo);
  const recordPath = join(
    dirname(daemon.socketPath),
    stateFiles.workingSets,
    template.manifest.templateId,
  );
  const recorded = await recordFirst(daemon, template, recordPath);
  const nothing = { ...recorded, ranges: [] };
  const creates = new Map<string, Create[]>();
  for (let repeat = 0; repeat < repeats; repeat += 1) {
    for (const heat of ["cold", "hot"] as const) {
      for (const ahead of ["recorded", "all", "none"] as const) {
        if (ahead === "all") await rm(recordPath, { force: true });
        else writeWorkingSet(recordPath, ahead === "none" ? nothing : recorded);
        await setHeat(template, heat);
        const key = `${ahead} ${heat}`;
        creates.set(key, [...(creates.get(key) ?? []), await timeCreate(daemon)]);
      }
    }
  }
  const of = (ahead: Ahead, heat: Heat, what: keyof Create): number =>
    median((creates.get(`${ahead} ${heat}`) ?? []).map((one) => one[what]));
  const waits = of("recorded", "cold", "majorFaults");
  const fewer = of("none", "cold", "majorFaults") / Math.max(1, waits);
  const asLong = of("recorded", "cold", "ms") / of("recorded", "hot", "ms");
  const ms = (ahead: Ahead, heat: Heat): Row => ({
    row: `create, image ${heat}, ${aheadWords[ahead]}`,
    value: of(ahead, heat, "ms"),
    unit: "ms",
  });
  return [
    ms("recorded", "cold"),
    ms("all", "cold"),
    ms("none", "cold"),
    ms("recorded", "hot"),
    ms("none", "hot"),
    { row: "recorded of the image", value: countPages(recorded) / 256, unit: "MiB" },
    { row: "waits for the disk, record read ahead", value: waits, unit: "faults" },
    {
      row: "waits for the disk, image read ahead",
      value: of("all", "cold", "majorFaults"),
      unit: "faults",
    },
    atLeast("waits for the disk saved by the record", fewer, "times fewer", 5),
    atMost("create over a cold image against a hot one", asLong, "times as long", 1.2),
  ];
}

const aheadWords: Readonly<Record<Ahead, string>> = {
  recorded: "record read ahead",
  all: "image read ahead",
  none: "nothing read ahead",
};

/** Copies the template, with what a daemon needs of the folder it is in. */
async function copyTemplate(cacheFolder: string, undo: AsyncDisposableStack): Promise<string> {
  const { manifest } = await new TemplateStore(templatesFolder(cacheFolder)).open("base");
  const { templateId } = manifest;
  const folder = await temporaryFolder(undo);
  await mkdir(join(folder, "templates"), { mode: 0o700 });
  const parts = [`templates/${templateId}`];
  if (manifest.vmmCopy !== undefined) parts.push(`vmm-${manifest.vmmCopy}`);
  for (const part of parts) {
    const deadline = Deadline.after(copyBudgetMs, "copying a template");
    const target = dirname(join(folder, part));
    await runCommand(["cp", "--archive", join(cacheFolder, part), target], deadline);
  }
  await new TemplateStore(templatesFolder(folder)).assignName("base", templateId);
  // Pages that are not written yet cannot be dropped from the page cache.
  await runCommand(["sync", "--file-system", folder], Deadline.after(copyBudgetMs, "flushing it"));
  return folder;
}

/** Records the working set by a first create, as any daemon does. */
async function recordFirst(
  daemon: Daemon,
  { manifest }: Template,
  recordPath: string,
): Promise<WorkingSet> {
  const sandbox = await createSandbox(daemon);
  await sandbox.whenIdle();
  await daemon.sandboxes.remove(sandbox.record.id);
  return readWorkingSet(recordPath, manifest.machine.memoryMiB * 1024 * 1024);
}

async function timeCreate(daemon: Daemon): Promise<Create> {
  const startedMonoMs = performance.now();
  const { run, record } = await createSandbox(daemon);
  const ms = performance.now() - startedMonoMs;
  if (run === undefined) throw new Error("the sandbox is not running");
  const majorFaults = await majorFaultsOf(run.vm.handle.pid);
  await daemon.sandboxes.remove(record.id);
  return { ms, majorFaults };
}

/** Field 12 of proc_pid_stat(5); the second, a name in brackets, may hold spaces. */
async function majorFaultsOf(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  return Number(stat.slice(stat.lastIndexOf(")")).split(" ")[10]);
}

async function setHeat({ memoryPath }: Template, heat: Heat): Promise<void> {
  await using image = await open(memoryPath, "r");
  dropFromCache(image.fd);
  if (heat === "cold") return;
  const buffer = Buffer.alloc(readBytes);
  for (const { start, end } of dataRanges(image.fd)) {
    for (let at = start; at < end; at += readBytes) await image.read(buffer, 0, readBytes, at);
  }
}
