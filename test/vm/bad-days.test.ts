/**
 * Bad input and bad days. Each ends in an error with a code, an effect and an advice; a sandbox is
 * never worse off for it, and nothing half-made stays behind.
 *
 * One guest is deaf from the beginning: its agent is stopped, and the pause that asks it to prepare
 * has to give up by itself. That takes its whole budget, so the other days pass meanwhile.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtemp, open, readFile, rename, rm, statfs, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import {
  Deadline,
  type Failpoint,
  TorporError,
  jsonLogger,
  parseJson,
  runCommand,
} from "@torpor/std";
import { stateFiles } from "@torpor/storage";
import {
  StateFolder,
  type TestDaemon,
  type TestSandbox,
  Witness,
  failsWith,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";
import { QemuDriver, installedQemu } from "@torpor/vmm";

const bytesPerMiB = 1024 * 1024;
const isRoot = process.getuid?.() === 0;

/** Stops the agent when someone connects for the first time, and lets it run on the second time. */
const stopper = `
import os, signal, socket
agent = int(open("/sys/fs/cgroup/agent/cgroup.procs").readline())
server = socket.create_server(("0.0.0.0", 9000))
print("ready", flush=True)
for what in [signal.SIGSTOP, signal.SIGCONT]:
    client, _ = server.accept()
    os.kill(agent, what)
    client.close()
`;

async function tellStopper(daemon: TestDaemon, sandbox: TestSandbox): Promise<void> {
  const socket = daemon.run(sandbox).link.dial(9000);
  socket.resume();
  await Deadline.after(30_000, "the guest's stopper").race(once(socket, "close"));
}

async function whenFailed(sandbox: TestSandbox): Promise<string> {
  return await waitUntil("the sandbox has failed", async () => {
    const { state, reason } = await sandbox.info();
    return state === "failed" ? (reason ?? "") : undefined;
  });
}

/** The database takes no record of a sandbox, as on a full disk, until this is disposed. */
function refuseRecords(daemon: TestDaemon): Disposable {
  using undo = new DisposableStack();
  const database = undo.use(new DatabaseSync(join(daemon.state.path, stateFiles.database)));
  database.exec(`CREATE TRIGGER full BEFORE UPDATE ON sandboxes
    BEGIN SELECT RAISE(ABORT, 'the disk is full'); END`);
  undo.defer(() => database.exec("DROP TRIGGER full"));
  return undo.move();
}

/** What the next daemon would find. */
function readStoredState({ state }: TestDaemon, { id }: TestSandbox): string {
  using database = new DatabaseSync(join(state.path, stateFiles.database));
  const row = database.prepare("SELECT state FROM sandboxes WHERE id = ?").get(id);
  const text = row?.["state"];
  assert.ok(typeof text === "string");
  return String((parseJson(text, "state") as Record<string, unknown>)["kind"]);
}

async function inspectStatus(
  daemon: TestDaemon,
  method: string,
  path: string,
  body?: object,
): Promise<{ readonly status: number; readonly error: Readonly<Record<string, unknown>> }> {
  const { status, text } = await daemon.api.exchange(method, path, body);
  return { status, error: parseJson(text, "error") as Record<string, unknown> };
}

async function flipByte(path: string): Promise<void> {
  await using file = await open(path, "r+");
  const { size } = await file.stat();
  const at = Math.floor(size / 2);
  const { buffer } = await file.read(Buffer.alloc(1), 0, 1, at);
  await file.write(Buffer.from([(buffer[0] ?? 0) ^ 0x01]), 0, 1, at);
}

/** A file system of its own, small enough to be filled. */
async function mountSmallDisk(): Promise<AsyncDisposable & { readonly path: string }> {
  const deadline = Deadline.after(60_000, "making a small disk");
  const path = await mkdtemp(join(tmpdir(), "torpor-disk-"));
  const image = `${path}.img`;
  await writeFile(image, "");
  await runCommand(["truncate", "-s", "320M", image], deadline);
  await runCommand(["mke2fs", "-q", "-F", "-t", "ext4", "-m", "0", image], deadline);
  await runCommand(["mount", "-o", "loop", image, path], deadline);
  return {
    path,
    [Symbol.asyncDispose]: async () => {
      await runCommand(["umount", path], Deadline.after(60_000, "unmounting"));
      await rm(path, { recursive: true });
      await rm(image);
    },
  };
}

/** Takes up room on the disk of `folder` until only `leftBytes` are free. Freed by deleting it. */
async function fillDisk(folder: string, leftBytes: number): Promise<string> {
  const path = join(folder, "filler");
  const { bavail, bsize } = await statfs(folder);
  const bytes = Math.max(0, bavail * bsize - leftBytes);
  const deadline = Deadline.after(60_000, "filling the disk");
  await runCommand(["fallocate", "-l", String(bytes), path], deadline);
  return path;
}

test("bad input is refused by name", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();

  await t.test("an unknown sandbox", async () => {
    for (const [method, path] of [
      ["GET", "/sandboxes/nobody"],
      ["GET", "/torpor/sandboxes/nobody"],
      ["POST", "/sandboxes/nobody/pause"],
      ["POST", "/v2/sandboxes/nobody/connect"],
      ["DELETE", "/sandboxes/nobody"],
    ] as const) {
      const { status, error } = await inspectStatus(daemon, method, path);
      assert.equal(status, 404, path);
      assert.equal(error["error_code"], "sandbox.notFound");
      assert.equal(error["effect"], "none");
      assert.ok(typeof error["advice"] === "string" && error["advice"] !== "");
    }
  });

  await t.test("a missing template", async () => {
    const { status, error } = await inspectStatus(daemon, "POST", "/v2/sandboxes", {
      templateID: "nothing",
    });
    assert.equal(status, 404);
    assert.equal(error["error_code"], "template.missing");
    assert.deepEqual(await daemon.state.sandboxIds(), [sandbox.id]);
    assert.equal((await daemon.api.list()).length, 1);
  });

  await t.test("a body that is no JSON, and one that lacks a field", async () => {
    const missing = await inspectStatus(daemon, "POST", "/v2/sandboxes", {});
    assert.equal(missing.status, 400);
    assert.equal(missing.error["error_code"], "argument.invalid");
  });

  await t.test("a command that does not exist", async () => {
    await assert.rejects(sandbox.run(["/no/such/program"]), (error) => {
      assert.ok(error instanceof ConnectError && error.code === Code.InvalidArgument);
      assert.match(error.message, /no such file/);
      return true;
    });
    assert.equal(await sandbox.shell("echo works"), "works");
  });

  await t.test("a pause of what sleeps, and a second one at the same time", async () => {
    const outcomes = await Promise.allSettled([sandbox.pause(), sandbox.pause()]);
    assert.deepEqual(outcomes.map(({ status }) => status).sort(), ["fulfilled", "rejected"]);
    await assert.rejects(sandbox.pause(), failsWith("sandbox.wrongState", "none"));
    const { status } = await sandbox.request(8000, "GET", "/");
    assert.equal(status, 502, "the edge answers for a guest that sleeps");
  });

  await t.test("two resumes at the same time are one", async () => {
    const answers = await Promise.all([sandbox.resume(), sandbox.resume()]);
    const statuses = answers.map(({ status }) => String(status)).sort();
    assert.deepEqual(statuses, ["200", "201"]);
    assert.equal((await daemon.state.vms()).length, 1);
  });
});

test("a daemon that cannot start says why and leaves the state alone", async (t) => {
  await using state = await StateFolder.make();
  await t.test("a port in use", async () => {
    await using server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const { port } = server.address() as AddressInfo;
    await assert.rejects(startTestDaemon({ state, port }), failsWith("port.inUse", "none"));
  });
  await t.test("a second daemon on one state folder", async () => {
    await using daemon = await startTestDaemon({ state });
    await assert.rejects(startTestDaemon({ state }), failsWith("daemon.alreadyRunning", "none"));
    assert.deepEqual(await daemon.api.list(), [], "the first one serves on");
  });
  await t.test("no QEMU", async () => {
    const program = installedQemu("/nonexistent");
    const driver = new QemuDriver({ accelerator: "tcg", program });
    await using daemon = await startTestDaemon({ state, driver: () => driver });
    await assert.rejects(daemon.create(), failsWith("vmm.missing", "none"));
    assert.deepEqual(await daemon.api.list(), []);
    assert.deepEqual(await state.sandboxIds(), []);
  });
});

test("a snapshot of another machine is refused before a VM is started", async () => {
  let started = 0;
  class DriverElsewhere extends QemuDriver {
    override async identity(): ReturnType<QemuDriver["identity"]> {
      return { ...(await super.identity()), cpuFingerprint: "another" };
    }
    override restore(
      ...given: Parameters<QemuDriver["restore"]>
    ): ReturnType<QemuDriver["restore"]> {
      started += 1;
      return super.restore(...given);
    }
  }
  await using state = await StateFolder.make();
  let id: string;
  {
    await using daemon = await startTestDaemon({ state });
    const sandbox = await daemon.create();
    await sandbox.pause();
    ({ id } = sandbox);
  }
  const driver = new DriverElsewhere({ accelerator: "tcg" });
  await using daemon = await startTestDaemon({ state, driver: () => driver });
  const resumed = daemon.api.call("POST", `/v2/sandboxes/${id}/connect`, { timeout: 60 });
  await assert.rejects(resumed, failsWith("snapshot.incompatible", "none"));
  await assert.rejects(daemon.create(), failsWith("snapshot.incompatible", "none"));
  assert.equal(started, 0);
  assert.deepEqual(
    (await daemon.api.list()).map((one) => one.state),
    ["paused"],
  );
  await daemon.api.call("DELETE", `/sandboxes/${id}`);
});

test("bad days end well", async (t) => {
  let problems = "";
  const log = jsonLogger((line) => {
    problems += line;
  });
  await using daemon = await startTestDaemon({ log });
  const deaf = await daemon.create();
  const deafWitness = await Witness.start(deaf);
  {
    using process = await deaf.start(["python3", "-c", stopper], { user: "root" });
    assert.equal(await process.readLine(), "ready");
  }
  await tellStopper(daemon, deaf);
  const deafPause = deaf.pause().then(
    () => undefined,
    (error: unknown) => error,
  );
  const sandbox = await daemon.create();

  await t.test(
    "a VM that is killed fails the sandbox, which has nowhere to go back to",
    async () => {
      const doomed = await daemon.create();
      await doomed.shell("echo the last words > /dev/ttyS0", { user: "root" });
      process.kill(daemon.run(doomed).vm.handle.pid, "SIGKILL");
      assert.match(await whenFailed(doomed), /ended by itself/);
      const { lastLines } = await doomed.info();
      assert.ok(
        lastLines.some((line) => line.includes("the last words")),
        lastLines.join("\n"),
      );
      await assert.rejects(doomed.pause(), failsWith("sandbox.wrongState", "none"));
      await assert.rejects(doomed.resume(), failsWith("sandbox.wrongState", "none"));
      assert.equal((await doomed.request(8000, "GET", "/")).status, 502);
      await doomed.remove();
    },
  );

  await t.test(
    "a VM that died and cannot be cleared up after has failed all the same",
    async () => {
      const doomed = await daemon.create();
      const { vm } = daemon.run(doomed);
      const { pid } = vm.handle;
      const end = (): Promise<void> => Promise.reject(new TorporError("vmm.failed", "on purpose"));
      Object.defineProperty(vm, "end", { value: end });
      process.kill(pid, "SIGKILL");
      await whenFailed(doomed);
      assert.equal(readStoredState(daemon, doomed), "failed");
      await doomed.remove();
    },
  );

  const witness = await Witness.start(sandbox);
  await sandbox.shell("echo kept > note && sync");
  await sandbox.pause();
  await sandbox.resume();

  await t.test("a VM that is killed goes back to its last snapshot", async () => {
    await sandbox.shell("echo lost > note && sync");
    process.kill(daemon.run(sandbox).vm.handle.pid, "SIGKILL");
    await whenFailed(sandbox);
    await sandbox.resume();
    await witness.confirm(sandbox);
    assert.equal(await sandbox.shell("cat note"), "kept");
  });

  await t.test("a VM's end that cannot be recorded is recorded once it can be", async () => {
    const { pid } = daemon.run(sandbox).vm.handle;
    const storedState = (): string => readStoredState(daemon, sandbox);
    {
      using undo = new DisposableStack();
      undo.use(refuseRecords(daemon));
      process.kill(pid, "SIGKILL");
      await waitUntil("the record was refused", () =>
        Promise.resolve(problems.includes("the disk is full") || undefined),
      );
      assert.equal((await sandbox.info()).state, "failed", "nobody takes it for running");
      assert.equal(storedState(), "running");
      await assert.rejects(sandbox.resume(), failsWith("storage.failed", "none"));
    }
    await waitUntil("the record is written", () =>
      Promise.resolve(storedState() === "failed" || undefined),
    );
    await sandbox.resume();
    await witness.confirm(sandbox);
  });

  await t.test(
    "a snapshot with one wrong bit is refused, and resumes once it is right",
    async () => {
      await sandbox.pause();
      const { snapshot } = await sandbox.info();
      assert.ok(snapshot !== null);
      for (const name of ["memory.pages", "memory.map", "device.state", "manifest.json"]) {
        const path = join(daemon.state.snapshotFolder(snapshot.id), name);
        await flipByte(path);
        await assert.rejects(sandbox.resume(), (error) => {
          assert.ok(failsWith("snapshot.corrupt", "none")(error) && TorporError.is(error));
          assert.ok(error.message.includes(name), error.message);
          return true;
        });
        const other = (await daemon.api.list()).find(({ id }) => id === sandbox.id);
        assert.equal(other?.state, "paused", "the list shows it all the same");
        assert.equal((await daemon.state.vms()).length, 1, "the deaf one's only");
        await flipByte(path);
      }
      const manifest = join(daemon.state.snapshotFolder(snapshot.id), "manifest.json");
      await rename(manifest, `${manifest}.away`);
      await assert.rejects(sandbox.resume(), failsWith("snapshot.corrupt", "none"));
      await rename(`${manifest}.away`, manifest);
      const whole = await readFile(manifest);
      await writeFile(manifest, whole.subarray(0, whole.length / 2));
      await assert.rejects(sandbox.resume(), failsWith("snapshot.corrupt", "none"));
      await writeFile(manifest, whole);
      await sandbox.resume();
      await witness.confirm(sandbox);
    },
  );

  await t.test("a guest that does not answer cannot be paused, and is left running", async () => {
    const error = await deafPause;
    assert.ok(TorporError.is(error), String(error));
    assert.equal(error.code, "deadline.exceeded", error.message);
    assert.match(error.message, /prepare/);
    assert.equal((await deaf.info()).state, "running");

    await tellStopper(daemon, deaf);
    const { ticks } = await deafWitness.confirm(deaf);
    await waitUntil("its processes run on", async () => {
      return (await Witness.ask(deaf)).ticks > ticks || undefined;
    });
    assert.equal(await deaf.shell("echo works again"), "works again");
    await deaf.pause();
    await deaf.resume();
    await deafWitness.confirm(deaf);
  });
});

test("a sandbox whose record is refused while it moves comes to rest all the same", async (t) => {
  let plan: { readonly step: string; readonly fails: boolean } | undefined;
  let refusal: Disposable | undefined;
  const failpoint: Failpoint = (step, moment) => {
    if (moment !== "before" || step !== plan?.step) return;
    const { fails } = plan;
    plan = undefined;
    refusal = refuseRecords(daemon);
    if (fails) throw new TorporError("vmm.failed", "failed on purpose");
  };
  await using daemon: TestDaemon = await startTestDaemon({ failpoint });
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);

  /** From `step` on records are refused; later they are not. */
  const assertRests = async (
    step: string,
    fails: boolean,
    work: () => Promise<unknown>,
    [moving, resting]: readonly [string, string],
  ): Promise<void> => {
    plan = { step, fails };
    try {
      await work();
      assert.equal((await sandbox.info()).state, resting);
      assert.equal(readStoredState(daemon, sandbox), moving);
      const next = resting === "running" ? sandbox.pause() : sandbox.resume();
      await assert.rejects(next, failsWith("storage.failed", "none"), "nothing is begun meanwhile");
      assert.equal((await sandbox.info()).state, resting);
    } finally {
      refusal?.[Symbol.dispose]();
    }
    await waitUntil("the record is written", () =>
      Promise.resolve(readStoredState(daemon, sandbox) === resting || undefined),
    );
  };
  const rejects = (code: "vmm.failed" | "storage.failed", work: () => Promise<unknown>) => {
    return async (): Promise<void> => await assert.rejects(work(), failsWith(code));
  };

  await t.test("a pause that fails", async () => {
    const work = rejects("vmm.failed", () => sandbox.pause());
    await assertRests("save memory", true, work, ["pausing", "running"]);
    await witness.confirm(sandbox);
  });
  await t.test("a snapshot that fails", async () => {
    const work = rejects("vmm.failed", () => sandbox.snapshot());
    await assertRests("capture memory", true, work, ["checkpointing", "running"]);
    await witness.confirm(sandbox);
  });
  await t.test("a pause that works", async () => {
    await assertRests("publish", false, () => sandbox.pause(), ["pausing", "paused"]);
    assert.equal((await daemon.state.vms()).length, 0);
  });
  await t.test("a resume that fails", async () => {
    const work = rejects("vmm.failed", () => sandbox.resume());
    await assertRests("init", true, work, ["resuming", "paused"]);
  });
  await t.test("a resume whose guest is ready", async () => {
    const work = rejects("storage.failed", () => sandbox.resume());
    await assertRests("init", false, work, ["resuming", "paused"]);
    assert.equal((await daemon.state.vms()).length, 0, "it does not run without a record");
  });
  await sandbox.resume();
  await witness.confirm(sandbox);
});

test(
  "a pause that saves all of memory is refused while the disk has no room for it",
  { skip: isRoot ? false : "needs root to mount" },
  async () => {
    await using disk = await mountSmallDisk();
    await using state = await StateFolder.make(disk.path);
    await using daemon = await startTestDaemon({ state, saveWhole: true });
    const sandbox = await daemon.create();
    const witness = await Witness.start(sandbox);
    await assert.rejects(sandbox.pause(), (error) => {
      assert.ok(failsWith("storage.noSpace", "none")(error) && TorporError.is(error));
      assert.match(error.message, /check space/, "before the guest is disturbed");
      return true;
    });
    await witness.confirm(sandbox);
    await sandbox.remove();
  },
);

test("a full disk", { skip: isRoot ? false : "needs root to mount" }, async (t) => {
  await using disk = await mountSmallDisk();
  await using state = await StateFolder.make(disk.path);
  let fillAtSaveMemory = false;
  const failpoint: Failpoint = async (step, moment) => {
    if (!fillAtSaveMemory || step !== "save memory" || moment !== "before") return;
    fillAtSaveMemory = false;
    await fillDisk(disk.path, bytesPerMiB);
  };
  await using daemon = await startTestDaemon({ state, failpoint });
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);

  /** Without what Firecracker has written of its memory: it tells no change twice, so its run keeps that. */
  const files = async (): Promise<readonly string[]> =>
    (await state.filesOf(sandbox.id)).filter((name) => !name.endsWith("/vm/memory.changed"));
  const assertRefused = async (): Promise<void> => {
    const filesBefore = await files();
    try {
      await assert.rejects(sandbox.pause(), failsWith("storage.noSpace", "none"));
    } finally {
      await rm(join(disk.path, "filler"));
    }
    assert.equal((await sandbox.info()).state, "running");
    assert.deepEqual(await files(), filesBefore);
    await witness.confirm(sandbox);
  };

  await t.test("a pause is refused before the guest is disturbed", async () => {
    await fillDisk(disk.path, 64 * bytesPerMiB);
    await assertRefused();
  });

  await t.test("a disk that fills while memory is written undoes the pause", async () => {
    fillAtSaveMemory = true;
    await assertRefused();
    assert.ok(!fillAtSaveMemory);
  });

  await t.test("a new sandbox is refused", async () => {
    await fillDisk(disk.path, 16 * bytesPerMiB);
    try {
      await assert.rejects(daemon.create(), failsWith("storage.noSpace", "none"));
    } finally {
      await rm(join(disk.path, "filler"));
    }
    assert.deepEqual(await state.sandboxIds(), [sandbox.id]);
  });

  await t.test("a guest that writes waits for room, and goes on when it is resumed", async () => {
    await fillDisk(disk.path, 8 * bytesPerMiB);
    const writing = sandbox.shell(
      "head -c 32M /dev/urandom > big && sync && sha256sum < big > sum && echo written",
    );
    try {
      await waitUntil("the disk is full", async () => {
        const { bavail, bsize } = await statfs(disk.path);
        return bavail * bsize < bytesPerMiB ? true : undefined;
      });
      await waitUntil("it is said to stand still", async () => {
        const info = await sandbox.info();
        const isSaid = info.state === "stalled" && /free space/.test(info.reason ?? "");
        return isSaid ? true : undefined;
      });
      await assert.rejects(sandbox.shell("true"), /stands still|503|unavailable/i);
    } finally {
      await rm(join(disk.path, "filler"));
    }
    const done = writing.then(() => true);
    await waitUntil("it goes on", async () => {
      await sandbox.resume();
      return await Promise.race([done, sleep(100).then(() => undefined)]);
    });
    const after = "sudo sh -c 'echo 3 > /proc/sys/vm/drop_caches'; sha256sum < big | cmp - sum";
    assert.equal(await sandbox.shell(after), "");
    assert.equal((await sandbox.info()).state, "running");
    await sandbox.shell("rm big");
  });

  await t.test("with room again, it sleeps and wakes", async () => {
    await sandbox.pause();
    await sandbox.resume();
    await witness.confirm(sandbox);
  });
  await sandbox.remove();
});
