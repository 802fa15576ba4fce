/**
 * QEMU is upgraded, and then it is removed. Sandboxes that slept or ran through it go on with the
 * QEMU they were made with; new ones are made with the new one; one daemon runs both.
 *
 * The newer QEMU is the installed one under another revision: it is a program and a version of its
 * own to everybody who looks. Upgrades happen on PATH, and the cache is the test's own.
 */
import assert from "node:assert/strict";
import {
  chmod,
  copyFile,
  cp,
  mkdir,
  mkdtempDisposable,
  readFile,
  readdir,
  realpath,
  rm,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { setUp, silentProgress } from "@torpor/setup";
import { Deadline, TorporError, runCommand } from "@torpor/std";
import { TemplateStore, defaultCacheFolder, templatesFolder, vmmCopyFolder } from "@torpor/storage";
import {
  type TestDaemon,
  type TestSandbox,
  Witness,
  failsWith,
  startTestDaemon,
} from "@torpor/testing";
import { copiedQemu, installedQemu, qemuVersion } from "@torpor/vmm";
import { underQemu } from "./qemu-only.ts";

const isRoot = process.getuid?.() === 0;
const programName = "qemu-system-x86_64";

interface OwnCache extends AsyncDisposable {
  readonly path: string;
  /** Folder of the copy of QEMU that the template "base" was made with. */
  readonly copyFolder: string;
}

/**
 * What set-up has made on this machine, as a cache that the test may add to and damage. Beside the
 * machine's own, because files that never change are in both.
 */
async function ownCache(): Promise<OwnCache> {
  const machine = defaultCacheFolder();
  const folder = await mkdtempDisposable(`${machine}-test-`);
  const { manifest } = await new TemplateStore(templatesFolder(machine)).open("base");
  const { templateId, vmmCopy } = manifest;
  assert.ok(vmmCopy !== undefined);
  const templates = templatesFolder(folder.path);
  await mkdir(templates);
  const layers = (await readdir(machine)).filter((name) => /^(?:kernel|rootfs|base)-/.test(name));
  for (const name of layers) await linkTree(join(machine, name), folder.path);
  await linkTree(join(templatesFolder(machine), templateId), templates);
  await new TemplateStore(templates).assignName("base", templateId);
  await copyFile(join(machine, "accelerator.json"), join(folder.path, "accelerator.json"));
  const copyFolder = vmmCopyFolder(folder.path, vmmCopy);
  await cp(vmmCopyFolder(machine, vmmCopy), copyFolder, { recursive: true });
  return {
    path: folder.path,
    copyFolder,
    [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose](),
  };
}

async function linkTree(from: string, into: string): Promise<void> {
  await runCommand(
    ["cp", "--archive", "--link", from, into],
    Deadline.after(30_000, "linking a layer"),
  );
}

interface OtherQemu extends AsyncDisposable {
  readonly binFolder: string;
  readonly version: string;
}

/** The installed QEMU with another last character in its revision, in a folder with its firmware. */
async function newerQemu(): Promise<OtherQemu> {
  const folder = await mkdtempDisposable(join(tmpdir(), "torpor-newer-"));
  const which = ["which", programName] as const;
  const { stdout } = await runCommand(which, Deadline.after(10_000, "looking for QEMU"));
  const installed = await realpath(stdout.trim());
  const binFolder = join(folder.path, "bin");
  await mkdir(binFolder);
  for (const name of ["share", "lib"]) {
    await symlink(join(dirname(installed), "..", name), join(folder.path, name));
  }
  const revision = /\((.+)\)/.exec(await qemuVersion())?.[1];
  assert.ok(revision !== undefined, "Debian's QEMU names its revision");
  const newer = `${revision.slice(0, -1)}~`;
  const program = (await readFile(installed, "latin1")).replaceAll(revision, newer);
  const path = join(binFolder, programName);
  await writeFile(path, program, { encoding: "latin1", mode: 0o755 });
  const version = await qemuVersion(installedQemu(path));
  assert.ok(version.includes(newer), version);
  return { binFolder, version, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

/** A QEMU that does nothing but fail. */
async function brokenQemu(): Promise<AsyncDisposable & { readonly binFolder: string }> {
  const folder = await mkdtempDisposable(join(tmpdir(), "torpor-broken-"));
  await writeFile(join(folder.path, programName), "#!/bin/sh\nexit 1\n", { mode: 0o755 });
  return { binFolder: folder.path, [Symbol.asyncDispose]: () => folder[Symbol.asyncDispose]() };
}

/** What is in this folder counts as installed. */
function install(binFolder: string): Disposable {
  const before = process.env["PATH"];
  process.env["PATH"] = `${binFolder}:${before}`;
  return {
    [Symbol.dispose]: () => {
      process.env["PATH"] = before;
    },
  };
}

async function restart(daemon: TestDaemon): Promise<void> {
  await daemon.stop();
  await daemon.start();
}

function versionOf(daemon: TestDaemon, sandbox: TestSandbox): string {
  return daemon.run(sandbox).vm.version;
}

async function sleepAndWake(sandbox: TestSandbox, witness: Witness): Promise<void> {
  await sandbox.pause();
  await sandbox.resume();
  await witness.confirm(sandbox);
}

const skip = underQemu;

test("an upgrade of QEMU kills no sandbox", { skip }, async (t) => {
  await using cache = await ownCache();
  await using newer = await newerQemu();
  await using daemon = await startTestDaemon({ cacheFolder: cache.path });
  const versionBefore = await qemuVersion();
  const sleeper = await daemon.create();
  const sleeperWitness = await Witness.start(sleeper);
  await sleeper.pause();
  const runner = await daemon.create();
  const runnerWitness = await Witness.start(runner);

  await using undo = new AsyncDisposableStack();
  undo.use(install(newer.binFolder));
  assert.equal(await qemuVersion(), newer.version);
  await restart(daemon);

  await t.test("a sandbox that slept through it wakes", async () => {
    await sleeper.resume();
    await sleeperWitness.confirm(sleeper);
    assert.equal(versionOf(daemon, sleeper), versionBefore);
  });

  await t.test("a sandbox that ran through it sleeps and wakes", async () => {
    await sleepAndWake(runner, runnerWitness);
    assert.equal(versionOf(daemon, runner), versionBefore);
    await runner.remove();
  });

  await t.test("a new sandbox is made before set-up has run again", async () => {
    const sandbox = await daemon.create();
    assert.equal(versionOf(daemon, sandbox), versionBefore);
    await sandbox.remove();
  });

  const { manifest } = await setUp({ cacheFolder: cache.path, progress: silentProgress });
  assert.equal(manifest.identity.version, newer.version);
  const recent = await daemon.create();
  const recentWitness = await Witness.start(recent);

  await t.test("the daemon that runs makes new ones with the new QEMU beside the old", async () => {
    assert.equal(versionOf(daemon, recent), newer.version);
    assert.equal(versionOf(daemon, sleeper), versionBefore);
    await sleepAndWake(recent, recentWitness);
    await sleepAndWake(sleeper, sleeperWitness);
  });

  await t.test("without any QEMU installed, both sleep, wake and are made", async () => {
    await using broken = new AsyncDisposableStack();
    const { binFolder } = broken.use(await brokenQemu());
    broken.use(install(binFolder));
    await assert.rejects(qemuVersion(), failsWith("command.failed", "maybe"));
    await recent.pause();
    await restart(daemon);
    await recent.resume();
    await recentWitness.confirm(recent);
    await sleepAndWake(sleeper, sleeperWitness);
    const another = await daemon.create();
    assert.equal(versionOf(daemon, another), newer.version);
  });
});

test(
  "a copy of QEMU needs nothing of the system",
  { skip: isRoot ? underQemu : "needs root to change the root folder" },
  async () => {
    await using cache = await ownCache();
    // Seen from inside, the copy is all there is.
    const { command } = copiedQemu("/", "");
    const { stdout } = await runCommand(
      [
        ...(["chroot", cache.copyFolder] as const),
        ...command,
        ...["-nodefaults", "-display", "none", "-machine", "microvm", "-accel", "tcg"],
        ...["-S", "-monitor", "stdio"],
      ],
      Deadline.after(30_000, "starting QEMU in its copy"),
      { input: "info status\nquit\n" },
    );
    assert.match(stdout, /VM status: paused/);
  },
);

test("a damaged copy of QEMU is refused by name, and set-up mends it", { skip }, async () => {
  await using cache = await ownCache();
  await using daemon = await startTestDaemon({ cacheFolder: cache.path });
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);
  await sandbox.pause();
  await daemon.stop();

  const library = join(cache.copyFolder, "lib/libglib-2.0.so.0");
  await chmod(library, 0o600);
  await writeFile(library, "damage", { flag: "r+" });
  await daemon.start();
  const isRefused = (why: RegExp) => (error: unknown) => {
    assert.ok(failsWith("vmm.damaged", "none")(error) && TorporError.is(error));
    assert.ok(error.message.includes(library), error.message);
    assert.match(error.message, why);
    assert.match(error.advice, /`torpor up`/);
    return true;
  };
  await assert.rejects(sandbox.resume(), isRefused(/does not match its checksum/));
  await assert.rejects(daemon.create(), isRefused(/does not match its checksum/));
  await rm(library);
  await assert.rejects(sandbox.resume(), isRefused(/is missing/));
  assert.equal((await sandbox.info()).state, "paused");

  await setUp({ cacheFolder: cache.path, progress: silentProgress });
  await sandbox.resume();
  await witness.confirm(sandbox);
});
