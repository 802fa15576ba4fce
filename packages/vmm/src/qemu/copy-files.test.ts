import assert from "node:assert/strict";
import { mkdir, mkdtempDisposable, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import {
  type CopyDescription,
  copyKey,
  describeFile,
  verifyCopy,
  writeDescription,
} from "./copy-files.ts";

interface MadeCopy {
  readonly key: string;
  readonly description: CopyDescription;
}

async function makeCopy(folder: string): Promise<MadeCopy> {
  await mkdir(join(folder, "lib"));
  await writeFile(join(folder, "lib/one.so"), "one");
  await writeFile(join(folder, "lib/two.so"), "two");
  const paths = ["lib/one.so", "lib/two.so"];
  const files = await Promise.all(paths.map((path) => describeFile(path, join(folder, path))));
  const description = { version: "10.0.2", files };
  await writeDescription(folder, description);
  return { key: copyKey(description), description };
}

function damageOf(name: string, what: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(TorporError.is(error), String(error));
    assert.equal(error.code, "vmm.damaged");
    assert.ok(error.message.includes(name), error.message);
    assert.match(error.message, what);
    assert.match(error.advice, /`torpor up`/);
    return true;
  };
}

test("copyKey() depends on version and every file, and not on their order", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-copy-"));
  const { key, description } = await makeCopy(folder.path);
  const { files } = description;
  assert.equal(copyKey({ ...description, files: files.toReversed() }), key);
  assert.notEqual(copyKey({ ...description, version: "10.0.3" }), key);
  assert.notEqual(copyKey({ ...description, files: files.slice(1) }), key);
});

test("verifyCopy() passes what is whole and names what is not", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-copy-"));
  const { key, description } = await makeCopy(folder.path);
  const file = join(folder.path, "lib/two.so");
  await verifyCopy(folder.path, key);

  await writeFile(file, "tow");
  await assert.rejects(verifyCopy(folder.path, key), damageOf("lib/two.so", /checksum/));
  await rm(file);
  await assert.rejects(verifyCopy(folder.path, key), damageOf("lib/two.so", /missing/));

  const list = join(folder.path, "copy.json");
  await rm(list);
  await writeDescription(folder.path, { ...description, files: description.files.slice(0, 1) });
  await assert.rejects(verifyCopy(folder.path, key), damageOf("copy.json", /damaged/));
  for (const text of ["{}", "[", '{"version": "1", "files": [null]}']) {
    await rm(list);
    await writeFile(list, text);
    await assert.rejects(verifyCopy(folder.path, key), damageOf("copy.json", /damaged/));
  }
  await rm(list);
  await assert.rejects(verifyCopy(folder.path, key), damageOf("copy.json", /missing/));
});
