import assert from "node:assert/strict";
import { chmod, cp, mkdtempDisposable, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { TorporError, jsonLogger } from "@torpor/std";
import { TemplateStore } from "@torpor/storage";
import { makeFakeTemplate, waitUntil } from "@torpor/testing";
import { checkTemplates } from "./template-check.ts";

/** Flips one bit of a file, or adds a byte to an empty one. */
function damaged(whole: Buffer): Buffer {
  const wrong = whole.length === 0 ? Buffer.of(0) : Buffer.from(whole);
  wrong[0] = (wrong[0] ?? 0) ^ 1;
  return wrong;
}

test("a template with one wrong bit is found in the background, and refused until it is right", async () => {
  await using temporary = await mkdtempDisposable(join(tmpdir(), "torpor-templates-"));
  const made = join(temporary.path, "made");
  await makeFakeTemplate(new TemplateStore(made), "fake");
  for (const name of ["memory.img", "disk.raw", "vmlinuz", "initramfs"]) {
    const folder = join(temporary.path, name);
    await cp(made, folder, { recursive: true });
    const store = new TemplateStore(folder);
    const [id = ""] = await store.ids();
    const path = join(folder, id, name);
    const whole = await readFile(path);
    await chmod(path, 0o600);
    await writeFile(path, damaged(whole));
    await store.assertWhole(id); // the damage is not known yet
    let problems = "";
    const log = jsonLogger((line) => {
      problems += line;
    });
    await using undo = new AsyncDisposableStack();
    undo.use(checkTemplates(store, log, 0));
    await waitUntil("the damage is told", () =>
      Promise.resolve(problems.includes(path) || undefined),
    );
    await assert.rejects(store.assertWhole(id), (error) => {
      assert.ok(TorporError.is(error) && error.code === "snapshot.corrupt");
      assert.ok(error.message.includes(path), error.message);
      return true;
    });
    await writeFile(path, whole);
    await store.assertWhole(id);
  }
});
