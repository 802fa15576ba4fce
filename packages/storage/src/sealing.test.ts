import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { chmod, mkdtempDisposable, readFile, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { type ErrorCode, TorporError, jsonLogger, silentLogger } from "@torpor/std";
import { KeyFile } from "./key-file.ts";
import { Sealer, type SealingKey, type SealingKeys, sealingKeyOf } from "./sealing.ts";

function fails(code: ErrorCode): (error: unknown) => boolean {
  return (error) => TorporError.is(error) && error.code === code && error.advice !== "";
}

function makeKeys(count = 1): SealingKeys {
  const keys = Array.from({ length: count }, () => sealingKeyOf(randomBytes(32)));
  const [first] = keys;
  assert.ok(first !== undefined);
  return {
    current: () => first,
    find: (wanted) => keys.find(({ id }) => id === wanted),
    place: "this test",
  };
}

const text = "a token, and ünïcode";

test("a sealed text opens at its place with its key, and shows nothing of itself", () => {
  const sealer = new Sealer(makeKeys());
  const sealed = sealer.seal(text, "the sandbox a");
  assert.equal(sealer.open(sealed, "the sandbox a"), text);
  assert.equal(sealer.open(sealer.seal("", "x"), "x"), "");
  assert.notEqual(sealer.seal(text, "the sandbox a"), sealed, "no two are the same");
  assert.doesNotMatch(Buffer.from(sealed.split(":")[2] ?? "", "base64url").toString(), /token/);
});

test("a sealed text does not open at another place, with another key, or with one bit changed", () => {
  const sealer = new Sealer(makeKeys());
  const sealed = sealer.seal(text, "the sandbox a");
  assert.throws(() => sealer.open(sealed, "the sandbox b"), fails("secrets.damaged"));
  const other = new Sealer(makeKeys());
  assert.throws(() => other.open(sealed, "the sandbox a"), fails("secrets.locked"));
  const [format, keyId, encoded = ""] = sealed.split(":");
  const bytes = Buffer.from(encoded, "base64url");
  for (let bit = 0; bit < bytes.length * 8; bit += 1) {
    const changed = Buffer.from(bytes);
    changed[bit >> 3] = (changed[bit >> 3] ?? 0) ^ (1 << (bit & 7));
    const again = `${format}:${keyId}:${changed.toString("base64url")}`;
    assert.throws(() => sealer.open(again, "the sandbox a"), fails("secrets.damaged"), `${bit}`);
  }
});

test("what is no sealed text is refused as damaged", () => {
  const sealer = new Sealer(makeKeys());
  const sealed = sealer.seal(text, "p");
  for (const wrong of [
    "",
    "plain",
    "::",
    `${sealed}:x`,
    sealed.replace("-1:", "-2:"),
    "sealed-1:k:AA",
  ]) {
    assert.throws(() => sealer.open(wrong, "p"), fails("secrets.damaged"), wrong);
  }
});

test("a new key seals from now on, and the old one still opens", () => {
  const oldKeys = makeKeys();
  const oldKey = (): SealingKey => oldKeys.current();
  const newKeys = makeKeys();
  const sealed = new Sealer({ ...newKeys, current: oldKey }).seal(text, "p");
  const both: SealingKeys = {
    ...newKeys,
    find: (id) => newKeys.find(id) ?? (id === oldKey().id ? oldKey() : undefined),
  };
  assert.equal(new Sealer(both).open(sealed, "p"), text);
  assert.throws(() => new Sealer(newKeys).open(new Sealer(both).seal(text, "p"), "q"));
  assert.throws(() => new Sealer(newKeys).open(sealed, "p"), fails("secrets.locked"));
});

test("the key file is made once, for its owner alone whatever the umask, and read by the next daemon", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-key-"));
  const path = join(folder.path, "not", "there", "sealing.key");
  const umask = process.umask(0);
  const first = KeyFile.open(path, silentLogger);
  await assert.rejects(stat(path), "nothing was sealed yet");
  const key = first.current();
  process.umask(umask);
  const modes = await Promise.all(
    [path, join(path, "..")].map(async (one) => (await stat(one)).mode),
  );
  assert.deepEqual(
    modes.map((mode) => mode & 0o777),
    [0o600, 0o700],
  );
  const next = KeyFile.open(path, silentLogger);
  assert.deepEqual([next.current().id, next.find(key.id)?.id], [key.id, key.id]);
  assert.doesNotMatch(await readFile(path, "utf8"), new RegExp(key.id));
});

test("two daemons that make the key file at the same moment use one key", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-key-"));
  const path = join(folder.path, "sealing.key");
  const [one, other] = [KeyFile.open(path, silentLogger), KeyFile.open(path, silentLogger)];
  assert.equal(one.current().id, other.current().id);
});

test("a line above the first one in the key file is the key from now on", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-key-"));
  const [path, otherPath] = [join(folder.path, "a.key"), join(folder.path, "b.key")];
  const sealed = new Sealer(KeyFile.open(path, silentLogger)).seal(text, "p");
  const newKey = KeyFile.open(otherPath, silentLogger).current();
  await writeFile(path, (await readFile(otherPath, "utf8")) + (await readFile(path, "utf8")));
  const both = KeyFile.open(path, silentLogger);
  assert.equal(both.current().id, newKey.id);
  assert.equal(new Sealer(both).open(sealed, "p"), text);
});

test("a key file that others could read is tightened, and the log says so", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-key-"));
  const path = join(folder.path, "sealing.key");
  KeyFile.open(path, silentLogger).current();
  await chmod(path, 0o644);
  const lines: string[] = [];
  KeyFile.open(
    path,
    jsonLogger((line) => lines.push(line)),
  );
  assert.equal((await stat(path)).mode & 0o777, 0o600);
  assert.match(lines.join(""), /tightened.*sealing\.key.*0644/);
});

test("a key file that is damaged, a link or a folder is refused, and stays as it is", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-key-"));
  const path = join(folder.path, "sealing.key");
  for (const content of ["", "\n", "key", "torpor-sealing-key-1:c2hvcnQ\n"]) {
    await writeFile(path, content, { mode: 0o600 });
    assert.throws(() => KeyFile.open(path, silentLogger), fails("secrets.damaged"), content);
    assert.equal(await readFile(path, "utf8"), content);
  }
  const link = join(folder.path, "link");
  await symlink(path, link);
  assert.throws(() => KeyFile.open(link, silentLogger), fails("storage.exposed"));
  assert.throws(() => KeyFile.open(folder.path, silentLogger), fails("storage.exposed"));
});
