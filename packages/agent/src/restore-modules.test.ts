/**
 * The modules that the guest image offers to programs, run as programs run them: against a file
 * that changes.
 */
import assert from "node:assert/strict";
import { type ChildProcessByStdio, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempDisposable, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable, Writable } from "node:stream";
import { test } from "node:test";
import { guestModulesFolder } from "./bundle.ts";
import { writeGeneration } from "./generation-file.ts";

const folder = guestModulesFolder;
const nodeModule = JSON.stringify(join(folder, "restore.mjs"));

/** A generation file of the test's own. */
class Sandbox implements AsyncDisposable {
  readonly #folder: AsyncDisposable & { readonly path: string };
  #generation = 0;

  private constructor(made: AsyncDisposable & { readonly path: string }) {
    this.#folder = made;
  }

  static async make(): Promise<Sandbox> {
    const sandbox = new Sandbox(await mkdtempDisposable(join(tmpdir(), "torpor-restore-")));
    sandbox.restore();
    return sandbox;
  }

  get env(): NodeJS.ProcessEnv {
    return {
      ...process.env,
      TORPOR_GENERATION_FILE: join(this.#folder.path, "generation"),
      PYTHONPATH: folder,
      PYTHONDONTWRITEBYTECODE: "1",
    };
  }

  /** As the agent does. */
  restore(): void {
    this.#generation += 1;
    const path = join(this.#folder.path, "generation");
    writeGeneration(path, this.#generation, Buffer.alloc(64, this.#generation));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#folder[Symbol.asyncDispose]();
  }
}

/** A program that prints lines of JSON, and continues with each line it receives. */
class Program implements AsyncDisposable {
  readonly #child: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;

  constructor(sandbox: Sandbox, argv: readonly [string, ...string[]]) {
    const [file, ...args] = argv;
    this.#child = spawn(file, args, { env: sandbox.env, stdio: ["pipe", "pipe", "inherit"] });
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  async next(): Promise<unknown> {
    const line = await this.#lines.next();
    assert.ok(line.done !== true, "the program says more");
    return JSON.parse(line.value);
  }

  go(): void {
    this.#child.stdin.write("go\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin.end();
    if (this.#child.exitCode === null) await once(this.#child, "exit");
  }
}

function runNode(sandbox: Sandbox, script: string, ...flags: readonly string[]): Program {
  return new Program(sandbox, [process.execPath, ...flags, "--input-type=module", "-e", script]);
}

function hasPython(): boolean {
  try {
    execFileSync("python3", ["-c", "import ssl"]);
    return true;
  } catch {
    return false;
  }
}

const withPython = { skip: hasPython() ? false : "no python3" };

test("Node: a program is told of every restore, whether it waits or asks", async () => {
  await using sandbox = await Sandbox.make();
  await using program = runNode(
    sandbox,
    `import { once } from "node:events";
    import { checkRestored, onRestore } from ${nodeModule};
    const say = (...what) => console.log(JSON.stringify(what));
    onRestore((restore) => say("told", restore));
    say(checkRestored() ?? "none yet");
    await once(process.stdin, "data");
    say(checkRestored() ?? "none more");`,
  );
  assert.deepEqual(await program.next(), ["none yet"]);
  sandbox.restore();
  const [, first] = (await program.next()) as [string, { generation: number; token: string }];
  assert.equal(first.generation, 2);
  assert.match(first.token, /^[0-9a-f]{32}$/);
  sandbox.restore();
  const [, second] = (await program.next()) as [string, { generation: number; token: string }];
  assert.equal(second.generation, 3);
  assert.notEqual(second.token, first.token);
  program.go();
  assert.deepEqual(await program.next(), ["none more"]);
});

test("Node: who asks is told before anything else happens", async () => {
  await using sandbox = await Sandbox.make();
  const program = `import { writeFileSync } from "node:fs";
    import { checkRestored, onRestore } from ${nodeModule};
    const told = [];
    onRestore(() => { throw new Error("first"); });
    const stop = onRestore(({ generation }) => told.push(generation));
    const path = process.env.TORPOR_GENERATION_FILE;
    const restore = (generation) => writeFileSync(path, generation + " " + "a".repeat(32) + "\\n", { flag: "r+" });
    restore(7);
    let failure;
    try { checkRestored(); } catch (error) { failure = error.message; }
    stop();
    writeFileSync(path, "nonsense that is longer than a line may be", { flag: "r+" });
    const nonsense = checkRestored() ?? "nothing";
    console.log(JSON.stringify({ told, failure, nonsense }));
    process.exit();`;
  const output = execFileSync(process.execPath, ["--input-type=module", "-e", program], {
    env: sandbox.env,
  });
  assert.deepEqual(JSON.parse(output.toString()), {
    told: [7],
    failure: "first",
    nonsense: "nothing",
  });
});

test("Node: as much is thrown away as Node draws ahead", async () => {
  const script = `process.stdout.write(process.binding("natives")["internal/crypto/random"])`;
  const source = execFileSync(process.execPath, ["-e", script]).toString();
  assert.deepEqual(source.match(/kBatchSize = \d+/g), ["kBatchSize = 128"]);
  assert.deepEqual(source.match(/randomCache = new .*/g), [
    "randomCache = new FastBuffer(6 * 1024);",
  ]);
  assert.match(source, /readUIntBE\(randomCacheOffset, 6\)/);
  const text = await readFile(join(folder, "restore.mjs"), "utf8");
  assert.match(text, /uuidCacheEntries = 128;\nconst intCacheEntries = 1024;/);
});

test("Node: outside a sandbox nothing happens, and a program that is done ends", () => {
  const program = `import { checkRestored, onRestore } from ${nodeModule};
    onRestore(() => {});
    console.log(String(checkRestored()));`;
  const env = { ...process.env, TORPOR_GENERATION_FILE: "/nonexistent" };
  const args = ["--input-type=module", "-e", program];
  const output = execFileSync(process.execPath, args, { env, timeout: 30_000 });
  assert.equal(output.toString(), "undefined\n");
});

test(
  "Python: a program is told of every restore, whether it waits or asks",
  withPython,
  async () => {
    await using sandbox = await Sandbox.make();
    const script = `
import json, random, sys, threading
import torpor_restore

def say(*what): print(json.dumps(what), flush=True)

told = threading.Event()

@torpor_restore.on_restore
def fails(restore): raise ValueError("expected by the test")

@torpor_restore.on_restore
def tells(restore):
    say("told", restore.generation, restore.token, random.getstate() == state)
    told.set()

sys.excepthook = lambda kind, error, trace: say("failed", str(error))
random.seed(1)
state = random.getstate()
say(torpor_restore.check_restored())
told.wait()
sys.stdin.readline()
say(torpor_restore.check_restored())
`;
    await using program = new Program(sandbox, ["python3", "-c", script]);
    assert.deepEqual(await program.next(), [null]);
    sandbox.restore();
    const [what, generation, token, sameState] = (await program.next()) as unknown[];
    assert.deepEqual([what, generation, sameState], ["told", 2, false]);
    assert.match(String(token), /^[0-9a-f]{32}$/);
    assert.deepEqual(await program.next(), ["failed", "expected by the test"]);
    program.go();
    assert.deepEqual(await program.next(), [null]);
  },
);

test(
  "Python: who asks is told at once, and a forked child watches for itself",
  withPython,
  async () => {
    await using sandbox = await Sandbox.make();
    const script = `
import json, os, sys, threading
import torpor_restore

def restore(generation):
    fd = os.open(os.environ["TORPOR_GENERATION_FILE"], os.O_WRONLY)
    os.write(fd, b"%d %s\\n" % (generation, b"a" * 32))
    os.close(fd)

told, asked = [], []
heard = threading.Event()

@torpor_restore.on_restore
def tells(found):
    told.append(found.generation)
    heard.set()

with torpor_restore._lock:
    restore(7)
    asked.append(torpor_restore.check_restored().generation)
    asked.append(torpor_restore.check_restored())
read, write = os.pipe()
child = os.fork()
heard.clear()
if child == 0:
    os.write(write, b"1")
    heard.wait(20)
    os._exit(told[-1])
os.read(read, 1)
restore(8)
heard.wait(20)
_, status = os.waitpid(child, 0)
print(json.dumps([told, asked, os.waitstatus_to_exitcode(status)]))
`;
    const options = { env: sandbox.env, timeout: 60_000 };
    const output = execFileSync("python3", ["-c", script], options);
    assert.deepEqual(JSON.parse(output.toString()), [[7, 8], [7, null], 8]);
  },
);

test("Python: outside a sandbox nothing happens", withPython, () => {
  const env = { ...process.env, TORPOR_GENERATION_FILE: "/nonexistent", PYTHONPATH: folder };
  const script = "import torpor_restore as t; print(t.check_restored(), t._inotify)";
  assert.equal(execFileSync("python3", ["-B", "-c", script], { env }).toString(), "None None\n");
});
