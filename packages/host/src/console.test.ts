/** The console of a guest whose VM may have put anything in the place of the file. */
import assert from "node:assert/strict";
import {
  appendFile,
  mkdir,
  mkdtempDisposable,
  rm,
  stat,
  symlink,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type TestContext, test } from "node:test";
import { silentLogger, systemCode } from "@torpor/std";
import { SandboxFolder } from "@torpor/storage";
import { runFiles } from "@torpor/vmm";
import { cutLongConsoles } from "./console-limit.ts";
import { readConsole } from "./detail.ts";
import { GuestLogs } from "./guest-logs.ts";
import { keepLastWords, lastWordsBytesMax, readLastWords } from "./last-words.ts";
import type { Sandbox } from "./sandbox/sandbox.ts";

interface Guest {
  readonly sandbox: Sandbox;
  readonly consolePath: string;
}

/** The parts of a running sandbox that these tests read. */
async function makeGuest(stateFolder: string, id: string): Promise<Guest> {
  const folder = new SandboxFolder(stateFolder, id);
  const runFolder = folder.run(1);
  await mkdir(runFolder, { recursive: true });
  const run = { vm: { handle: { runFolder } } };
  const sandbox = { record: { id, generation: 1 }, run, folder } as unknown as Sandbox;
  return { sandbox, consolePath: join(runFolder, runFiles.console) };
}

async function makeFolder(t: TestContext): Promise<string> {
  const folder = await mkdtempDisposable(join(tmpdir(), "torpor-console-"));
  t.after(() => folder.remove());
  return folder.path;
}

test("a link in the place of a console keeps no other console long", async (t) => {
  const folder = await makeFolder(t);
  const [hostile, loud] = [await makeGuest(folder, "hostile"), await makeGuest(folder, "loud")];
  await symlink("/dev/null", hostile.consolePath);
  await writeFile(loud.consolePath, "");
  await truncate(loud.consolePath, 5 * 1024 * 1024);
  await cutLongConsoles([hostile.sandbox, loud.sandbox], silentLogger);
  assert.equal((await stat(loud.consolePath)).size, 0);
});

test("the last run's console is there for a sandbox that sleeps, also in another daemon", async (t) => {
  const { sandbox, consolePath } = await makeGuest(await makeFolder(t), "sleepy");
  const { folder, record } = sandbox;
  const said = async (logs: GuestLogs): Promise<readonly string[]> =>
    (await logs.of(sandbox)).map(({ message }) => message);
  await writeFile(join(folder.run(1), runFiles.log), "of the VMM\n");
  await writeFile(consolePath, "one\n");
  using logs = new GuestLogs(() => []);
  assert.deepEqual(await said(logs), ["one"]);
  await appendFile(consolePath, "two\n");
  await keepLastWords(folder, 1);
  await rm(folder.runs, { recursive: true });
  assert.deepEqual(await said(logs), ["one", "two"]);
  assert.deepEqual(await said(logs), ["one", "two"], "once");
  using later = new GuestLogs(() => []);
  assert.deepEqual(await said(later), ["one", "two"]);
  assert.deepEqual(await readConsole(sandbox), { console: "one\ntwo\n", vmm: "of the VMM\n" });
  Object.assign(record, { generation: 2 });
  assert.deepEqual(await said(later), ["one", "two"]);
  await mkdir(folder.run(2), { recursive: true });
  await writeFile(join(folder.run(2), runFiles.console), "three\n");
  assert.deepEqual(await said(later), ["one", "two", "three"]);
  using latest = new GuestLogs(() => []);
  assert.deepEqual(await said(latest), ["three"]);
});

test("a run that left no console does not take the place of the run before", async (t) => {
  const { sandbox, consolePath } = await makeGuest(await makeFolder(t), "sleepy");
  const { folder } = sandbox;
  await writeFile(join(folder.run(1), runFiles.log), "");
  await writeFile(consolePath, "kept\n");
  await keepLastWords(folder, 1);
  await assert.rejects(keepLastWords(folder, 2), (error) => systemCode(error) === "ENOENT");
  const kept = await readLastWords(folder, runFiles.console);
  assert.deepEqual({ ...kept, bytes: kept?.bytes.toString() }, { generation: 1, bytes: "kept\n" });
});

test("of a long console the end is kept", async (t) => {
  const { sandbox, consolePath } = await makeGuest(await makeFolder(t), "loud");
  await writeFile(join(sandbox.folder.run(1), runFiles.log), "");
  await writeFile(consolePath, `${"a line\n".repeat(100_000)}last\n`);
  await keepLastWords(sandbox.folder, 1);
  const kept = await readLastWords(sandbox.folder, runFiles.console);
  assert.equal(kept?.bytes.length, lastWordsBytesMax);
  assert.match(kept.bytes.toString(), /last\n$/);
});

test("logs are read from the console itself and through no link", async (t) => {
  const folder = await makeFolder(t);
  const secretPath = join(folder, "secret");
  await writeFile(secretPath, "of the host\n");
  const [good, hostile] = [await makeGuest(folder, "good"), await makeGuest(folder, "hostile")];
  await writeFile(good.consolePath, "of the guest\n");
  await symlink(secretPath, hostile.consolePath);
  using logs = new GuestLogs(() => []);
  assert.deepEqual(
    (await logs.of(good.sandbox)).map(({ message }) => message),
    ["of the guest"],
  );
  await assert.rejects(logs.of(hostile.sandbox), (cause) => systemCode(cause) === "ELOOP");
});
