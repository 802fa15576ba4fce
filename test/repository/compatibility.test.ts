/** COMPATIBILITY.md claims what the tests with the published E2B clients show, and nothing else. */
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { compatibilityText, readBehaviours } from "../../tools/compatibility.ts";

const root = join(import.meta.dirname, "../..");

test("COMPATIBILITY.md is what the tests say", async () => {
  const kept = await readFile(join(root, "COMPATIBILITY.md"), "utf8");
  assert.equal(kept, await compatibilityText(), "run `npm run compatibility`");
});

test("a test that names a call in its title makes it", async () => {
  const behaviours = await readBehaviours();
  assert.ok(behaviours.some(({ calls }) => calls.length > 0));
  for (const { file, title, calls, text } of behaviours) {
    for (const call of calls) {
      const isCommand = call.startsWith("e2b ");
      const words = isCommand ? call.split(" ").slice(1) : [call.split(".")[1] ?? ""];
      const made = isCommand ? `"${words.join('", "')}"` : `.${words[0]}(`;
      assert.ok(text.includes(made), `${file}: ${title}: no ${made}`);
    }
  }
});
