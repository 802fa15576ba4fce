/**
 * The E2B SDK for Python as it is published, and the stories that are told with it.
 *
 * The packages are installed once for each list of versions and each Python, into a layer of the cache,
 * by the machine's pip from the registry that it uses. A warm cache needs no registry.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { ensureDebianPackages, ensureLayer, layerKey, withCacheLock } from "@torpor/setup";
import { Deadline, parseJson, parseObject, parseString, runCommand } from "@torpor/std";
import { defaultCacheFolder } from "@torpor/storage";
import type { ClientEnvironment } from "./published-clients.ts";

export const pythonClients = ["sync", "async"] as const;
export type PythonClient = (typeof pythonClients)[number];

const folder = join(import.meta.dirname, "python");
const examples = join(import.meta.dirname, "../../examples");
const requirementsPath = join(folder, "requirements.txt");
const queryBudgetMs = 60_000;
const installBudgetMs = 10 * 60_000;
const debianPackages = [
  { name: "python3-pip", why: "installs the E2B SDK for Python", newest: false },
];

export interface ToldStory {
  readonly title: string;
  /** Python's traceback; undefined when the story came true. */
  readonly error: string | undefined;
}

/** "2.63.0": the version that the list of requirements names. */
export async function pythonSdkVersion(): Promise<string> {
  const text = await readFile(requirementsPath, "utf8");
  return /^e2b==(\S+)$/m.exec(text)?.[1] ?? "";
}

/** The titles of all stories, in their order. */
export async function pythonStoryTitles(): Promise<readonly string[]> {
  const text = await readFile(join(folder, "stories.py"), "utf8");
  return [...text.matchAll(/^@story\("((?:[^"\\]|\\.)*)"\)$/gm)].map(([, title = ""]) => title);
}

/**
 * Installs the SDK where it is missing. Returns the folder for `PYTHONPATH`.
 * @throws command.failed when pip cannot install it
 */
export async function ensurePythonSdk(): Promise<string> {
  const python = await loadPythonVersion();
  const requirements = await readFile(requirementsPath, "utf8");
  const deadline = Deadline.after(installBudgetMs, "installing the E2B SDK for Python");
  const cacheFolder = defaultCacheFolder();
  const key = layerKey({ python, requirements });
  return await withCacheLock(
    cacheFolder,
    deadline,
    () => undefined,
    () =>
      ensureLayer(cacheFolder, "python-sdk", key, async (staging) => {
        const options = ["--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check"];
        const from = ["--target", staging, "--requirement", requirementsPath];
        await runCommand(["python3", "-m", "pip", "install", ...options, ...from], deadline);
      }),
  );
}

/** Also makes sure that pip is there. */
async function loadPythonVersion(): Promise<string> {
  const ask = async (): Promise<string> => {
    const { stdout } = await runCommand(
      ["python3", "-m", "pip", "--version"],
      Deadline.after(queryBudgetMs, "pip --version"),
    );
    return /\(python [\d.]+\)/.exec(stdout)?.[0] ?? stdout;
  };
  try {
    return await ask();
  } catch {
    await ensureDebianPackages({}, debianPackages);
    return await ask();
  }
}

/** Runs all stories with one of the two clients, and hands on each as it ends. */
export async function* tellPythonStories(
  client: PythonClient,
  environment: ClientEnvironment,
): AsyncGenerator<ToldStory> {
  const packages = await ensurePythonSdk();
  const python = spawn("python3", ["stories.py", client], {
    cwd: folder,
    env: {
      ...process.env,
      ...environment,
      PYTHONPATH: `${packages}:${examples}`,
      PYTHONDONTWRITEBYTECODE: "1",
    },
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(python, "close");
  try {
    for await (const line of createInterface({ input: python.stdout })) {
      const told = parseObject(parseJson(line, "a story"), "a story");
      const { error } = told;
      yield {
        title: parseString(told["title"], "title"),
        error: error === null ? undefined : parseString(error, "error"),
      };
    }
    const [code] = (await ended) as [number | null];
    if (code !== 0) throw new Error(`Python ended with ${code}`);
  } finally {
    python.kill();
  }
}
