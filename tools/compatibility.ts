/**
 * Writes COMPATIBILITY.md: which calls of the published E2B clients work, as the tests in test/e2b
 * show.
 *
 *     npm run compatibility
 *
 * The clients themselves list their calls. The tests show that a call works: a test whose title
 * names a call, as in "files.read …" or "e2b sandbox list …", counts for it. A call that no title
 * names has no test. test/repository/compatibility.test.ts compares.
 */
import { execFileSync } from "node:child_process";
import { glob, readFile, writeFile } from "node:fs/promises";
import { basename, join } from "node:path";
import { fileURLToPath } from "node:url";
import { format } from "prettier";
import { Sandbox } from "e2b";
import { endpointRows } from "./compatibility-endpoints.ts";
import { sdks } from "../test/e2b/published-clients.ts";
import { pythonSdkVersion, pythonStoryTitles } from "../test/e2b/python-client.ts";
import type { VmmName } from "../test/nested/plan.ts";
import { type AllResults, type KeptResults, readResults } from "../test/nested/results.ts";
import { safetyMatrix } from "../test/vm/safety-matrix.ts";

const root = join(import.meta.dirname, "..");
const target = join(root, "COMPATIBILITY.md");
const conformance = "packages/testing/src/vmm-conformance.ts";
const commandLineName = "@e2b/cli 2.19.0";
const commandLine = fileURLToPath(import.meta.resolve("@e2b/cli/dist/index.js"));

/** The requests that each call sends; for the calls of the SDK, the newest generation first. */
const requests: Readonly<Record<string, string>> = {
  "Sandbox.betaPause": "`POST /sandboxes/{id}/pause`",
  "Sandbox.connect": "`POST /v2/sandboxes/{id}/connect`; older `POST /sandboxes/{id}/connect`",
  "Sandbox.create": "`POST /v2/sandboxes`; older `POST /sandboxes`",
  "Sandbox.createSnapshot": "`POST /sandboxes/{id}/snapshots`",
  "Sandbox.deleteSnapshot": "`DELETE /templates/{id}`",
  "Sandbox.downloadUrl": "signed `GET /files`",
  "Sandbox.fork": "`POST /sandboxes/{id}/fork`",
  "Sandbox.getFullInfo": "`GET /sandboxes/{id}`",
  "Sandbox.getInfo": "`GET /sandboxes/{id}`",
  "Sandbox.getMetrics": "`GET /sandboxes/{id}/metrics`",
  "Sandbox.isRunning": "`GET /health` of the agent",
  "Sandbox.kill": "`DELETE /sandboxes/{id}`",
  "Sandbox.list": "`GET /v2/sandboxes`",
  "Sandbox.listSnapshots": "`GET /snapshots`",
  "Sandbox.pause": "`POST /sandboxes/{id}/pause`",
  "Sandbox.setTimeout": "`POST /sandboxes/{id}/timeout`",
  "Sandbox.updateNetwork": "`PUT /sandboxes/{id}/network`",
  "Sandbox.uploadUrl": "signed `POST /files`",
  "commands.closeStdin": "`process.Process/CloseStdin`",
  "commands.connect": "`process.Process/Connect`",
  "commands.kill": "`process.Process/SendSignal`",
  "commands.list": "`process.Process/List`",
  "commands.run": "`process.Process/Start`",
  "commands.sendStdin": "`process.Process/SendInput`",
  "files.exists": "`filesystem.Filesystem/Stat`",
  "files.getInfo": "`filesystem.Filesystem/Stat`",
  "files.list": "`filesystem.Filesystem/ListDir`",
  "files.makeDir": "`filesystem.Filesystem/MakeDir`",
  "files.read": "`GET /files`",
  "files.remove": "`filesystem.Filesystem/Remove`",
  "files.rename": "`filesystem.Filesystem/Move`",
  "files.watchDir": "`filesystem.Filesystem/WatchDir`",
  "files.write": "`POST /files`",
  "files.writeFiles": "`POST /files`",
  "pty.connect": "`process.Process/Connect`",
  "pty.create": "`process.Process/Start`",
  "pty.kill": "`process.Process/SendSignal`",
  "pty.resize": "`process.Process/Update`",
  "pty.sendInput": "`process.Process/SendInput`",
};

/** Calls whose name in Python is not the one in JavaScript with underscores. */
const pythonNames: Readonly<Record<string, string>> = { "pty.sendInput": "pty.send_stdin" };

/**
 * Groups of the command line; `e2b auth` and the commands that build templates from a folder need
 * E2B's own services.
 */
const commandGroups = [["sandbox"], ["sandbox", "snapshot"], ["template"]] as const;

/** A test, and the calls that its title names. */
export interface ShownBehaviour {
  readonly file: string;
  readonly title: string;
  /** The calls that the title names. */
  readonly calls: readonly string[];
  /** All of the file's text. */
  readonly text: string;
}

/** Reads every test inside a story. */
export async function readBehaviours(): Promise<readonly ShownBehaviour[]> {
  const behaviours: ShownBehaviour[] = [];
  const calledBy = [...listSdkCalls(), ...listCommands()];
  const files = await Array.fromAsync(glob("test/e2b/*.test.ts", { cwd: root }));
  const pattern = /\btest\(\s*"((?:[^"\\]|\\.)*)",\s*async/g;
  for (const file of files.sort()) {
    const text = await readFile(join(root, file), "utf8");
    for (const [, title = ""] of text.matchAll(pattern)) {
      const calls = calledBy.filter((call) => new RegExp(`\\b${call}\\b`).test(title));
      behaviours.push({ file, title, calls, text });
    }
  }
  return behaviours;
}

/** Lists every method that the SDK offers on a sandbox. */
function listSdkCalls(): readonly string[] {
  const sandbox = new Sandbox({ sandboxId: "any", envdVersion: "0.6.13", apiKey: "e2b_00" });
  const members = {
    Sandbox: [Sandbox.prototype, Sandbox, Object.getPrototypeOf(Sandbox) as object],
    commands: [Object.getPrototypeOf(sandbox.commands) as object],
    files: [Object.getPrototypeOf(sandbox.files) as object],
    pty: [Object.getPrototypeOf(sandbox.pty) as object],
  };
  const inner = new Set(["constructor", "start", "fileUrl", "resolveApiOpts"]);
  return Object.entries(members).flatMap(([owner, holders]) => {
    const names = holders.flatMap((holder) =>
      Object.entries(Object.getOwnPropertyDescriptors(holder))
        .filter(([name, { value }]) => typeof value === "function" && !inner.has(name))
        .map(([name]) => name),
    );
    const isInner = (name: string): boolean => /Sandbox$/.test(name);
    return [...new Set(names)]
      .filter((name) => !isInner(name))
      .sort()
      .map((name) => `${owner}.${name}`);
  });
}

/** Lists every command of the groups above. */
function listCommands(): readonly string[] {
  return commandGroups.flatMap((group) => {
    const help = execFileSync(process.execPath, [commandLine, ...group, "--help"], {
      encoding: "utf8",
    });
    const names = [...help.matchAll(/^ {2}([a-z]+)\|[a-z]+ /gm)].map(([, name = ""]) => name);
    return names
      .filter((name) => !(group.length === 1 && name === "snapshot"))
      .map((name) => ["e2b", ...group, name].join(" "));
  });
}

function stateOf(call: string, behaviours: readonly ShownBehaviour[]): string {
  return behaviours.some(({ calls }) => calls.includes(call)) ? "works" : "no test";
}

/** Converts "files.makeDir" to "files.make_dir". */
function pythonNameOf(call: string): string {
  return (
    pythonNames[call] ?? call.replace(/[a-z][A-Z]/g, ([a, b]) => `${a}_${b?.toLowerCase() ?? ""}`)
  );
}

function pythonStateOf(call: string, titles: readonly string[]): string {
  const named = new RegExp(`\\b${pythonNameOf(call).replace(".", "\\.")}\\b`);
  return titles.some((title) => named.test(title)) ? "works" : "no test";
}

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const ruler = head.map(() => "---");
  return [head, ruler, ...rows].map((cells) => `| ${cells.join(" | ")} |`).join("\n");
}

/** Lists the requirements on every driver of a VMM, by the titles of the one list of tests. */
export async function listVmmBehaviours(): Promise<readonly string[]> {
  const text = await readFile(join(root, conformance), "utf8");
  return [...text.matchAll(/\bt\.test\(\s*"([^"]+)"/g)].map(([, title = ""]) => title);
}

/** The tests of one VMM's driver that have those of the list inside. */
const driverTests = {
  qemu: "QEMU is driven as every VMM",
  firecracker: "the real Firecracker is driven as every VMM",
} as const;

/** The tests of VMMs: by `npm test`, and by `npm run test:nested` where results were kept. */
function vmmText(behaviours: readonly string[], results: AllResults): readonly string[] {
  const nested = (vmm: VmmName, title: string): string => results[vmm]?.tests[title] ?? "not run";
  const heads = [
    `QEMU with KVM (${versionNumber(results.qemu)})`,
    `Firecracker, the real one (${versionNumber(results.firecracker)})`,
  ];
  return [
    `What [every driver](${conformance}) of a VMM must do. QEMU is run on real VMs, with emulation where ` +
      "there is no KVM. Firecracker is run as a fake, with its memory from a file and from a pager, whose " +
      "every request is compared with Firecracker's published API. The last two columns are what " +
      "`npm run test:nested` last said: there guests run under KVM, on a processor that QEMU emulates, and " +
      "Firecracker is the real one, if `FIRECRACKER_BIN` names one. What did not run there is not claimed.",
    table(
      ["A driver", "QEMU", "Firecracker, a fake", ...heads],
      behaviours.map((title) => [
        ...[title, "passed", "passed"],
        nested("qemu", `${driverTests.qemu} › ${title}`),
        nested("firecracker", `${driverTests.firecracker} › ${title}`),
      ]),
    ),
    "The matrix of snapshot safety: the same tests, unchanged, under each VMM (`npm test -- safety`).",
    table(
      ["What a snapshot must keep right", "Test", "QEMU", ...heads],
      safetyMatrix.map(({ concern, file, title }) => [
        ...[concern, `[${file}](test/vm/${file})`, "passed"],
        ...[nested("qemu", title), nested("firecracker", title)],
      ]),
    ),
  ];
}

/** Extracts "1.16.1" from "Firecracker v1.16.1", as a VMM reports its version. */
function versionNumber(results: KeptResults | undefined): string {
  return results?.version.match(/\d+\.\d\S*/)?.[0] ?? "none yet";
}

/** The text that COMPATIBILITY.md must have. */
export async function compatibilityText(): Promise<string> {
  const behaviours = await readBehaviours();
  const pythonTitles = await pythonStoryTitles();
  const sdkRows = listSdkCalls().map((call) => [
    `\`${call}\``,
    requests[call] ?? "",
    ...sdks.map(() => stateOf(call, behaviours)),
    pythonStateOf(call, pythonTitles),
  ]);
  const commandRows = listCommands().map((command) => [
    `\`${command}\``,
    stateOf(command, behaviours),
  ]);
  const working = Object.entries(requests).filter(
    ([call]) => stateOf(call, behaviours) === "works",
  );
  const files = [...new Set(behaviours.map(({ file }) => file))];
  const shown = files.map((file) => {
    const lines = behaviours
      .filter((behaviour) => behaviour.file === file)
      .map(({ title }) => `- ${title}`);
    return `[${basename(file)}](${file}):\n\n${lines.join("\n")}`;
  });
  const text = [
    "# What works with E2B's clients",
    "The published clients are run unmodified against a daemon with real VMs by `npm test -- e2b`. This " +
      "file is made from those tests by `npm run compatibility`, and a test compares: a call works when a " +
      "test shows it, and what no test shows is not claimed.",
    "## The SDK",
    "Of `Sandbox` static methods and those of an instance are not told apart. The methods of `git` run " +
      "commands in the sandbox and need `git` in its template.",
    table(
      [
        "Call",
        "Sends",
        ...sdks.map(({ name }) => `\`${name}\``),
        `Python ${await pythonSdkVersion()}`,
      ],
      sdkRows,
    ),
    "The Python SDK has the same calls with names such as `files.make_dir`. Its column is shown by stories " +
      "that run with both of its clients, sync and async.",
    "## The command line",
    table(["Command", `\`${commandLineName}\``], commandRows),
    "## The endpoints",
    "Of the control plane, as its own OpenAPI document lists them, without those that are Torpor's alone. " +
      "Each is shown by the calls above that send it, or by a test that sends it by hand.",
    table(
      ["Endpoint", "State", "What it does", "Shown by"],
      await endpointRows(Object.fromEntries(working)),
    ),
    "## VMMs",
    ...vmmText(await listVmmBehaviours(), await readResults()),
    "## What the tests show",
    ...shown,
    `[stories.py](test/e2b/python/stories.py), sync and async:\n\n${pythonTitles.map((title) => `- ${title}`).join("\n")}`,
  ].join("\n\n");
  return await format(text, { parser: "markdown", printWidth: 100 });
}

if (import.meta.main) await writeFile(target, await compatibilityText());
