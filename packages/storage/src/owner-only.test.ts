import assert from "node:assert/strict";
import {
  chmod,
  chown,
  link,
  mkdir,
  mkdtempDisposable,
  readdir,
  stat,
  symlink,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type Logger, TorporError, jsonLogger, silentLogger } from "@torpor/std";
import { claimStateFolder, refuseForeignState, stateExposures } from "./owner-only.ts";

const isRoot = process.getuid?.() === 0;

async function modesOf(folder: string): Promise<Record<string, string>> {
  const names = [".", ...(await readdir(folder))].sort();
  const modes = names.map(async (name) => [
    name,
    ((await stat(join(folder, name))).mode & 0o777).toString(8),
  ]);
  return Object.fromEntries(await Promise.all(modes)) as Record<string, string>;
}

function remember(): { readonly log: Logger; readonly lines: readonly string[] } {
  const lines: string[] = [];
  return { log: jsonLogger((line) => lines.push(line)), lines };
}

test("a state folder that an earlier daemon left open is tightened with all it holds, and the log names each", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-owner-"));
  const folder = join(outer.path, "state");
  const files = [
    "daemon.lock",
    "daemon.log",
    "torpor.sqlite",
    "torpor.sqlite-wal",
    "torpor.sqlite-shm",
  ];
  const folders = ["sandboxes", "snapshots", "disks", "working-sets"];
  await mkdir(folder, { mode: 0o755 });
  for (const name of files) await writeFile(join(folder, name), "", { mode: 0o644 });
  for (const name of folders) await mkdir(join(folder, name), { mode: 0o750 });
  assert.equal(stateExposures(folder).length, 1 + files.length + folders.length);
  const { log, lines } = remember();
  claimStateFolder(folder, log);
  assert.deepEqual(await modesOf(folder), {
    ".": "700",
    ...Object.fromEntries(files.map((name) => [name, "600"])),
    ...Object.fromEntries(folders.map((name) => [name, "700"])),
  });
  for (const name of [folder, ...files, ...folders]) {
    assert.ok(
      lines.some((line) => line.includes("tightened") && line.includes(name)),
      name,
    );
  }
  assert.deepEqual(stateExposures(folder), []);
  const again = remember();
  claimStateFolder(folder, again.log);
  assert.deepEqual(again.lines, []);
});

test("a state folder is made for its owner alone, whatever the umask", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-owner-"));
  const folder = join(outer.path, "a", "b");
  const umask = process.umask(0);
  claimStateFolder(folder, silentLogger);
  process.umask(umask);
  assert.deepEqual(await modesOf(folder), { ".": "700" });
  assert.deepEqual(await modesOf(join(outer.path, "a")), { ".": "700", b: "700" });
});

const foreign: readonly (readonly [
  what: string,
  needsRoot: boolean,
  make: (folder: string) => Promise<void>,
])[] = [
  ["the folder belongs to another user", true, (folder) => chown(folder, 12_345, 12_345)],
  [
    "a file in it belongs to another user",
    true,
    async (folder) => {
      await writeFile(join(folder, "torpor.sqlite"), "");
      await chown(join(folder, "torpor.sqlite"), 12_345, 12_345);
    },
  ],
  ["every user may write to the folder above", false, (folder) => chmod(join(folder, ".."), 0o777)],
  [
    "the database is a link",
    false,
    (folder) => symlink("/etc/passwd", join(folder, "torpor.sqlite")),
  ],
  ["the log is a link", false, (folder) => symlink("/nowhere", join(folder, "daemon.log"))],
  [
    "the database is a folder",
    false,
    (folder) => mkdir(join(folder, "torpor.sqlite")).then(() => undefined),
  ],
  ["the disks are a file", false, (folder) => writeFile(join(folder, "disks"), "")],
  [
    "the database has a second name",
    false,
    async (folder) => {
      await writeFile(join(folder, "..", "other"), "", { mode: 0o644 });
      await link(join(folder, "..", "other"), join(folder, "torpor.sqlite"));
    },
  ],
];

for (const [what, needsRoot, make] of foreign) {
  const skip = needsRoot && !isRoot ? "only root gives files away" : false;
  test(`a state folder is refused where ${what}, and nothing is changed`, { skip }, async () => {
    await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-owner-"));
    const folder = join(outer.path, "state");
    await mkdir(folder, { mode: 0o700 });
    await make(folder);
    const before = JSON.stringify(await stat(outer.path).then(({ mode }) => mode));
    for (const claim of [
      () => claimStateFolder(folder, silentLogger),
      () => refuseForeignState(folder),
    ]) {
      assert.throws(claim, (error) => {
        assert.ok(TorporError.is(error) && error.code === "storage.exposed", String(error));
        return error.advice !== "";
      });
    }
    assert.equal(JSON.stringify((await stat(outer.path)).mode), before);
    assert.equal(stateExposures(folder).length, 1);
  });
}

test("a state folder that is a link is refused", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-owner-"));
  await mkdir(join(outer.path, "there"), { mode: 0o755 });
  await symlink(join(outer.path, "there"), join(outer.path, "state"));
  assert.throws(() => claimStateFolder(join(outer.path, "state"), silentLogger), /is a link/);
  assert.deepEqual(await modesOf(outer.path), { ".": "700", state: "755", there: "755" });
});

test("a folder above that all may write to is no fault where it is sticky", async () => {
  await using outer = await mkdtempDisposable(join(tmpdir(), "torpor-owner-"));
  await chmod(outer.path, 0o1777);
  claimStateFolder(join(outer.path, "state"), silentLogger);
  assert.deepEqual(stateExposures(join(outer.path, "state")), []);
});
