/**
 * The documents say what is so: what SPEC.md names exists and no measured bound is missing from it,
 * README.md lists the verbs that there are, links lead somewhere, and nothing in the tree is about the
 * machine it was written on.
 *
 * A row of SPEC.md is held by links to files, each with the title of a test or the name of a row:
 * `[x.test.ts](test/vm/x.test.ts) ` and then the title as code.
 */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { glob, readFile, readdir } from "node:fs/promises";
import { dirname, join } from "node:path";
import { test } from "node:test";
import { buildProgram } from "@torpor/cli";
import { settingNames, settings } from "@torpor/storage";

const root = join(import.meta.dirname, "../..");
/** What comes from elsewhere, or is made anew from what is looked at. */
const foreignNames = new Set([".git", ".ci", "node_modules", "dist", "package-lock.json"]);
/** Put together here, so that this file does not contain them. */
const banned = [
  ["/wo", "rk/"],
  ["/Us", "ers/"],
  ["registry.npm", "js"],
  ["registry.yarn", "pkg"],
  ["deb.deb", "ian.org"],
  ["security.deb", "ian.org"],
  ["iss", "ues show"],
  ["helper ses", "sion"],
  ["clau", "de"],
  ["anthro", "pic"],
].map((parts) => parts.join(""));

interface Reference {
  readonly path: string;
  readonly title: string;
}

interface SpecRow {
  readonly promise: string;
  readonly bound: string;
  /** The cell as it stands. */
  readonly heldBy: string;
  readonly references: readonly Reference[];
}

async function read(path: string): Promise<string> {
  return await readFile(join(root, path), "utf8");
}

function cellsOf(line: string): readonly string[] {
  return line
    .replace(/^\| | \|$/g, "")
    .split(" | ")
    .map((cell) => cell.trim());
}

/** The body of every table, without heads and rulers. */
function tableRows(markdown: string): readonly (readonly string[])[] {
  const lines = markdown.split("\n");
  return lines
    .filter((line, index) => {
      const isHead = lines[index + 1]?.startsWith("| -") === true;
      return line.startsWith("| ") && !line.startsWith("| -") && !isHead;
    })
    .map(cellsOf);
}

async function readSpec(): Promise<readonly SpecRow[]> {
  return tableRows(await read("SPEC.md")).map((cells) => {
    const [promise = "", bound = "", , heldBy = ""] = cells;
    const links = heldBy.matchAll(/\[[^\]]+\]\(([^)]+)\) `([^`]+)`/g);
    const references = [...links].map(([, path = "", title = ""]) => ({ path, title }));
    return { promise, bound, heldBy, references };
  });
}

/** Patterns of the titles of a file's tests; what a loop fills in may be anything. */
async function testTitles(path: string): Promise<readonly RegExp[]> {
  const calls = (await read(path)).matchAll(/\btest\(\s*(?:"((?:[^"\\]|\\.)*)"|`([^`]*)`)/g);
  return [...calls].map(([, plain, template = ""]) => {
    const fixed = (plain ?? template).split(/\$\{[^}]*\}/).map((part) => RegExp.escape(part));
    return new RegExp(`^${fixed.join(".+")}$`);
  });
}

interface BenchRow {
  readonly path: string;
  readonly name: string;
  /** Undefined: measured for comparison only. */
  readonly bound: string | undefined;
}

async function readBenchRows(): Promise<readonly BenchRow[]> {
  const rows: BenchRow[] = [];
  for await (const path of glob("bench/*.bench.ts", { cwd: root })) {
    const text = await read(path);
    for (const [, name = ""] of text.matchAll(/\{ row: "([^"]+)"/g)) {
      rows.push({ path, name, bound: undefined });
    }
    const bounded = /\bat(Least|Most)\(\s*"([^"]+)",.*?,\s*"([^"]+)",\s*([\d.]+),?\s*\)/gs;
    for (const [, kind = "", name = "", unit, number] of text.matchAll(bounded)) {
      rows.push({ path, name, bound: `at ${kind.toLowerCase()} ${number} ${unit}` });
    }
  }
  return rows;
}

async function findFiles(): Promise<readonly string[]> {
  const entries = await readdir(root, { withFileTypes: true });
  const files: string[] = [];
  const folders: string[] = [];
  for (const entry of entries) {
    if (foreignNames.has(entry.name)) continue;
    (entry.isDirectory() ? folders : files).push(entry.name);
  }
  for (const folder of folders) {
    const below = await readdir(join(root, folder), { recursive: true, withFileTypes: true });
    for (const entry of below) {
      const path = join(entry.parentPath, entry.name).slice(root.length + 1);
      const isForeign = path.split("/").some((name) => foreignNames.has(name));
      if (entry.isFile() && !isForeign) files.push(path);
    }
  }
  return files.sort();
}

const spec = await readSpec();
const benchRows = await readBenchRows();
const files = await findFiles();

test("every promise of SPEC.md names what holds it, or says that nothing does", () => {
  assert.ok(spec.length > 0);
  const link = /\[[^\]]+\]\([^)]+\) `[^`]+`/.source;
  const held = new RegExp(`^(?:no test yet|${link}(?:, ${link})*)$`);
  const wrong = spec.filter(({ heldBy }) => !held.test(heldBy));
  assert.deepEqual(
    wrong.map(({ promise }) => promise),
    [],
  );
});

test("every test and every row that SPEC.md names exists", async () => {
  const missing: string[] = [];
  for (const { path, title } of spec.flatMap(({ references }) => references)) {
    const exists = path.endsWith(".bench.ts")
      ? benchRows.some((row) => row.path === path && row.name === title)
      : files.includes(path) && (await testTitles(path)).some((one) => one.test(title));
    if (!exists) missing.push(`${path} ${title}`);
  }
  assert.deepEqual(missing, []);
});

test("every bound of a benchmark is in SPEC.md, with its number", () => {
  const bounded = benchRows.filter(({ bound }) => bound !== undefined);
  assert.ok(bounded.length > 0);
  for (const { path, name, bound } of bounded) {
    const row = spec.find(({ references }) =>
      references.some((one) => one.path === path && one.title === name),
    );
    assert.equal(row?.bound, bound, `${path} ${name}`);
  }
});

test("a benchmark's rows have names of their own", () => {
  const names = benchRows.map(({ name }) => name);
  assert.deepEqual(names, [...new Set(names)]);
});

test("only set-up and the benchmarks power a guest on", async () => {
  const callers: string[] = [];
  for (const path of files) {
    if (!path.endsWith(".ts") || path.endsWith(".test.ts")) continue;
    if (/\b(?:driver\.boot|bootGuest)\(/i.test(await read(path))) callers.push(path);
  }
  // A fake guest is none, and a small one has no agent.
  const mayBoot =
    /^(?:packages\/setup\/|packages\/testing\/src\/fake-firecracker\/|bench\/|test\/vm\/small-guest\.ts$)/;
  const wrong = callers.filter((path) => !mayBoot.test(path));
  assert.deepEqual(wrong, []);
  assert.ok(callers.includes("packages/setup/src/boot-guest.ts"), "the search finds what it seeks");
});

test("README.md lists exactly the verbs and no option that does not exist", async () => {
  // The verbs are declared without touching it.
  const program = buildProgram({} as Parameters<typeof buildProgram>[0]);
  const listed = tableRows(await read("README.md"))
    .map(([command = ""]) => [...command.matchAll(/`([^`]+)`/g)].map(([, usage = ""]) => usage))
    .filter((usages) => !/^TORPOR_/.test(usages[0] ?? ""))
    .flat();
  const verbs = listed.map((usage) => usage.split(" ")[0] ?? "");
  const real = program.commands.map((verb) => verb.name());
  assert.deepEqual([...new Set(verbs)].sort(), real.toSorted());
  for (const usage of listed) {
    const verb = program.commands.find((one) => one.name() === usage.split(" ")[0]);
    const known = verb?.options.flatMap(({ short, long }) => [short, long]) ?? [];
    for (const [, option] of usage.matchAll(/\[(--?[a-z-]+)\]/g)) {
      assert.ok(known.includes(option), `${usage}: ${option}`);
    }
  }
});

test("every command that a message or a document names exists, with its options", async () => {
  const program = buildProgram({} as Parameters<typeof buildProgram>[0]);
  const wrong: string[] = [];
  let count = 0;
  for (const path of files) {
    if (path.endsWith(".test.ts") || !/\.(?:ts|mjs|md)$/.test(path)) continue;
    for (const line of commandsIn(await read(path))) {
      count += 1;
      if (!isCommand(program, line)) wrong.push(`${path}: ${line}`);
    }
  }
  assert.deepEqual(wrong, []);
  assert.ok(count > 100, `the search finds what it seeks: ${count}`);
});

/** Between backticks, those of a template of JavaScript among them, or at a prompt. */
function commandsIn(text: string): readonly string[] {
  const quoted = [...text.matchAll(/`(?:npx )?torpor ([^`\\]+)\\?`/g)];
  const typed = [...text.matchAll(/^ *\$ (?:[A-Z]+=\$\()?torpor ([^#)\n]+)/gm)];
  return [...quoted, ...typed].map(([, words = ""]) =>
    words.replaceAll(/\$\{[^}]*\}/g, "X").trim(),
  );
}

/** What stands behind `--`, a pipe or `&&` is another's; words in capitals are for the reader to fill in. */
function isCommand(program: ReturnType<typeof buildProgram>, line: string): boolean {
  const [verb = "", part = "", ...rest] = (line.split(/ -- | \| | && /)[0] ?? "").split(/\s+/);
  if (/^(?:-|[A-Z])/.test(verb)) return true;
  const found = program.commands.find((one) => one.name() === verb);
  const inner = found?.commands.find((one) => one.name() === part);
  const known = [found, inner].flatMap((one) => one?.options ?? []);
  const options = [part, ...rest].filter((word) => /^--?[a-z]/.test(word));
  return (
    found !== undefined &&
    options.every((word) => known.some(({ short, long }) => [short, long, "--help"].includes(word)))
  );
}

test("README.md lists exactly the settings, with what they mean", async () => {
  const listed = tableRows(await read("README.md")).filter(([name]) =>
    /^`TORPOR_/.test(name ?? ""),
  );
  const told = settingNames.flatMap((name) => {
    const { default: text, shownDefault = `\`${text}\``, meaning } = settings[name];
    return meaning === undefined ? [] : [[`\`${name}\``, shownDefault, meaning]];
  });
  const hooks = listed.filter(([name]) => settings[bare(name)].reader === "guest");
  assert.deepEqual(
    listed.filter((row) => !hooks.includes(row)),
    told,
  );
});

function bare(cell = ""): (typeof settingNames)[number] {
  const found = settingNames.find((name) => cell === `\`${name}\``);
  return found ?? assert.fail(`${cell} is in no table`);
}

test("every variable that the tree names is a setting", async () => {
  const unknown: string[] = [];
  for (const path of files) {
    // Names that are none are what this test is about.
    if (path.endsWith("storage/src/settings.test.ts")) continue;
    for (const [name] of (await read(path)).matchAll(/\bTORPOR_[A-Z_]*[A-Z]\b/g)) {
      if (!(settingNames as readonly string[]).includes(name)) unknown.push(`${path}: ${name}`);
    }
  }
  assert.deepEqual(unknown, [], "add it to packages/storage/src/settings.ts");
});

test("links in the documents lead somewhere", async () => {
  const broken: string[] = [];
  for (const path of files.filter((one) => one.endsWith(".md"))) {
    for (const [, target = ""] of (await read(path)).matchAll(/\]\((?!https?:)([^)#]+)/g)) {
      if (!existsSync(join(root, dirname(path), target))) broken.push(`${path}: ${target}`);
    }
  }
  assert.deepEqual(broken, []);
});

test("nothing in the tree is about the machine or the place it was written on", async () => {
  const found: string[] = [];
  for (const path of files) {
    const text = (await read(path)).toLowerCase();
    for (const word of banned) {
      if (text.includes(word.toLowerCase())) found.push(`${path}: ${word}`);
    }
  }
  assert.deepEqual(found, []);
});
