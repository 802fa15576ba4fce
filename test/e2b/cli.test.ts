/**
 * The published command line of E2B, as a script would call it: no terminal, everything it needs in
 * variables.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { fileURLToPath } from "node:url";
import { test } from "node:test";
import { parseJson } from "@torpor/std";
import { startTestDaemon, waitUntil } from "@torpor/testing";
import { type ClientEnvironment, clientEnvironment } from "./published-clients.ts";

const program = fileURLToPath(import.meta.resolve("@e2b/cli/dist/index.js"));

interface Ended {
  readonly exitCode: number;
  readonly stdout: string;
  readonly stderr: string;
}

/** Runs the command line in a home of its own, so that no other account of its user is taken. */
class CommandLine implements AsyncDisposable {
  readonly #environment: ClientEnvironment;
  readonly #home: Awaited<ReturnType<typeof mkdtempDisposable>>;

  private constructor(
    environment: ClientEnvironment,
    home: Awaited<ReturnType<typeof mkdtempDisposable>>,
  ) {
    this.#environment = environment;
    this.#home = home;
  }

  static async make(environment: ClientEnvironment): Promise<CommandLine> {
    return new CommandLine(environment, await mkdtempDisposable(join(tmpdir(), "torpor-e2b-")));
  }

  async exchange(argv: readonly string[], input = ""): Promise<Ended> {
    const child = spawn(process.execPath, [program, ...argv], {
      env: { PATH: process.env["PATH"], HOME: this.#home.path, ...this.#environment },
    });
    child.stdin.end(input);
    const [stdout, stderr] = await Promise.all([text(child.stdout), text(child.stderr)]);
    if (child.exitCode === null) await once(child, "exit");
    return { exitCode: child.exitCode ?? -1, stdout, stderr };
  }

  /** Of a command that must succeed. */
  async run(...argv: readonly string[]): Promise<string> {
    const { exitCode, stdout, stderr } = await this.exchange(argv);
    assert.equal(exitCode, 0, `e2b ${argv.join(" ")}: ${stdout}${stderr}`);
    return stdout;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#home[Symbol.asyncDispose]();
  }
}

test("the published command line, without a terminal", async (t) => {
  await using daemon = await startTestDaemon();
  await using e2b = await CommandLine.make(await clientEnvironment(daemon.api));
  let id = "";

  await t.test("e2b sandbox create --detach prints the id", async () => {
    const printed = await e2b.run("sandbox", "create", "--detach", "base");
    id = /\bi[a-z0-9]{20}\b/.exec(printed)?.[0] ?? "";
    assert.notEqual(id, "", printed);
  });

  await t.test("e2b sandbox exec passes output, input and the exit code on", async () => {
    const argv = ["sandbox", "exec", id, "--", "sh", "-c", "cat; echo err >&2; exit 3"];
    const { exitCode, stdout, stderr } = await e2b.exchange(argv, "in\n");
    assert.deepEqual({ exitCode, stdout }, { exitCode: 3, stdout: "in\n" });
    assert.match(stderr, /^err\n/);
  });

  await t.test("e2b sandbox exec takes a user, a folder and variables", async () => {
    const options = ["-u", "root", "-c", "/tmp", "-e", "NAME=you"];
    const printed = await e2b.run("sandbox", "exec", ...options, id, "echo $(whoami) $PWD $NAME");
    assert.equal(printed, "root /tmp you\n");
  });

  await t.test("e2b sandbox exec --background leaves a command running", async () => {
    await e2b.run("sandbox", "exec", "--background", id, "sleep 1; echo done > done");
    await waitUntil("it has run", async () => {
      const { stdout } = await e2b.exchange(["sandbox", "exec", id, "cat done"]);
      return stdout === "done\n" || undefined;
    });
  });

  await t.test("e2b sandbox info shows one sandbox", async () => {
    const info = parseJson(await e2b.run("sandbox", "info", "--format", "json", id), "info");
    assert.equal((info as { sandboxId: string }).sandboxId, id);
  });

  await t.test("e2b sandbox list shows what runs", async () => {
    const listed = parseJson(await e2b.run("sandbox", "list", "--format", "json"), "list");
    assert.deepEqual(
      (listed as readonly { sandboxId: string }[]).map(({ sandboxId }) => sandboxId),
      [id],
    );
  });

  await t.test("e2b sandbox pause and e2b sandbox resume", async () => {
    await e2b.run("sandbox", "pause", id);
    assert.match(await e2b.run("sandbox", "info", "--format", "json", id), /"paused"/);
    await e2b.run("sandbox", "resume", id);
    assert.equal(await e2b.run("sandbox", "exec", id, "cat done"), "done\n");
  });

  await t.test("e2b sandbox logs shows the log", async () => {
    await e2b.run("sandbox", "logs", id);
  });

  await t.test("e2b sandbox metrics shows what is in use", async () => {
    await waitUntil("a measurement is there", async () => {
      const printed = await e2b.run("sandbox", "metrics", "--format", "json", id);
      return /"cpuCount":\s*1/i.test(printed) || undefined;
    });
  });

  await t.test(
    "e2b sandbox snapshot create, e2b sandbox snapshot list, e2b sandbox snapshot delete",
    async () => {
      const printed = await e2b.run("sandbox", "snapshot", "create", id);
      const listed = parseJson(
        await e2b.run("sandbox", "snapshot", "list", "--format", "json", id),
        "list",
      );
      const [snapshot] = listed as readonly { snapshotId: string }[];
      assert.ok(snapshot !== undefined && printed.includes(snapshot.snapshotId), printed);
      await e2b.run("sandbox", "snapshot", "delete", snapshot.snapshotId);
    },
  );

  await t.test("e2b template list shows the templates", async () => {
    assert.match(await e2b.run("template", "list"), /\bbase\b/);
  });

  await t.test("e2b sandbox kill removes a sandbox", async () => {
    await e2b.run("sandbox", "kill", id);
    const gone = await e2b.exchange(["sandbox", "info", id]);
    assert.notEqual(gone.exitCode, 0);
  });

  await t.test("e2b sandbox kill --all removes every sandbox", async () => {
    await e2b.run("sandbox", "create", "--detach", "base");
    await e2b.run("sandbox", "kill", "--all");
    assert.deepEqual(await daemon.api.list(), []);
  });
});
