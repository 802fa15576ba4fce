/** Tab in real shells: the script that `torpor completion` prints completes the typed text. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdir, symlink } from "node:fs/promises";
import { delimiter, join } from "node:path";
import { stripVTControlCharacters } from "node:util";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { Deadline } from "@torpor/std";
import { FakeDaemon, runForTest, sandboxInfo } from "../fixtures.ts";

const program = fileURLToPath(new URL("../../bin/torpor.mjs", import.meta.url));
const patienceMs = 60_000;
const pollMs = 20;

const shells = [
  { name: "bash", path: "/bin/bash", command: "bash --noprofile --norc -i" },
  { name: "zsh", path: "/bin/zsh", command: "zsh -f -i" },
] as const;

/** A shell on a terminal of its own, with `torpor` on PATH. */
class TypedShell implements Disposable {
  readonly #child: ChildProcess;
  #shown = "";

  constructor(command: string, env: NodeJS.ProcessEnv) {
    this.#child = spawn("script", ["--quiet", "--command", command, "/dev/null"], { env });
    this.#child.stdout?.on("data", (bytes: Buffer) => (this.#shown += bytes.toString()));
    this.#child.stdin?.on("error", () => undefined);
  }

  /** Types, and waits until `expected` is on the screen. */
  async type(keys: string, expected: string): Promise<void> {
    this.#shown = "";
    this.#child.stdin?.write(keys);
    const deadline = Deadline.after(patienceMs, `waiting for ${expected}`);
    while (!stripVTControlCharacters(this.#shown).includes(expected)) {
      if (deadline.expired) assert.fail(`${keys}: ${JSON.stringify(this.#shown)}`);
      await deadline.sleep(pollMs);
    }
    // Clears the line.
    this.#child.stdin?.write("\u0015");
  }

  [Symbol.dispose](): void {
    this.#child.kill("SIGKILL");
  }
}

async function startDaemon(): Promise<FakeDaemon> {
  const daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa1111" }), sandboxInfo({ id: "ibbb2222" })];
  daemon.snapshots = [
    { snapshotID: "s1", names: ["ready"], sandboxID: "i", createdAt: "2026-01-01", pool: 0 },
  ];
  daemon.keys = [{ id: "k1", name: "agents", prefix: "e2b_", createdAtMs: 0 }];
  return daemon;
}

for (const { name, path, command } of shells) {
  const skip = !existsSync(path) && `${name} is not installed`;
  test(`Tab in ${name} completes verbs, options, ids and names`, { skip }, async () => {
    await using daemon = await startDaemon();
    const bin = join(daemon.stateFolder, "bin");
    await mkdir(bin);
    await symlink(program, join(bin, "torpor"));
    using shell = new TypedShell(command, {
      ...process.env,
      PATH: `${bin}${delimiter}${process.env["PATH"]}`,
      HOME: daemon.stateFolder,
      TORPOR_HOME: daemon.stateFolder,
      TERM: "dumb",
    });
    await shell.type(`eval "$(torpor completion ${name})"; echo lo''aded\n`, "loaded");
    await shell.type("torpor sna\t", "snapshot");
    await shell.type("torpor keys ls --j\t", "--json");
    await shell.type("torpor info ia\t", "iaaa1111");
    await shell.type("torpor pause iaaa1111 ib\t", "ibbb2222");
    await shell.type("torpor fork --on-timeout k\t", "kill");
    await shell.type("torpor create --template re\t", "ready");
    await shell.type("torpor snapshot rm re\t", "ready");
    await shell.type("torpor snapshot ia\t", "iaaa1111");
    await shell.type("torpor keys rm ag\t", "agents");
    await shell.type("torpor help pau\t", "pause");
  });
}

test("Tab starts no daemon, and no name becomes a command of the shell", async () => {
  const { exitCode, stdout } = await runForTest(["completion", "--names", "ids"], "/nonexistent/x");
  assert.deepEqual([exitCode, stdout], [0, ""]);
  await using daemon = await startDaemon();
  daemon.keys = ["agents", "$(id)", "`id`", "two words", "a;b", "user@host:1/x"].map((name) => ({
    ...{ id: name, name, prefix: "e2b_", createdAtMs: 0 },
  }));
  const keys = await daemon.run(["completion", "--names", "keys"]);
  assert.equal(keys.stdout, "agents\nuser@host:1/x\n");
});
