/**
 * Commands and terminals as the published SDKs run them: the quick start, streams, input, signals,
 * leaving and coming back.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { waitUntil } from "@torpor/testing";
import { withEachSdk } from "./published-clients.ts";

test("commands by the published SDKs", async (story) => {
  await withEachSdk(story, async (t, { Sandbox, CommandExitError, ...sdk }) => {
    const sandbox = await Sandbox.create({ envs: { GREETING: "hello" } });

    await t.test("commands.run returns what a command printed and how it ended", async () => {
      const result = await sandbox.commands.run("echo out; echo err >&2");
      assert.equal(result.stdout, "out\n");
      assert.equal(result.stderr, "err\n");
      assert.equal(result.exitCode, 0);
    });

    await t.test("commands.run returns 20 MB of output within its default timeout", async () => {
      const { stdout } = await sandbox.commands.run("head -c 20000000 /dev/zero | tr '\\0' x");
      assert.equal(stdout.length, 20_000_000);
    });

    await t.test("commands.run takes variables, a folder and a user", async () => {
      const line = 'echo "$GREETING $NAME $(pwd) $(whoami)"';
      const plain = await sandbox.commands.run(line, { envs: { NAME: "you" } });
      assert.equal(plain.stdout, "hello you /home/user user\n");
      const asRoot = await sandbox.commands.run(line, { cwd: "/tmp", user: "root" });
      assert.equal(asRoot.stdout, "hello  /tmp root\n");
    });

    await t.test("commands.run throws CommandExitError for another exit code than 0", async () => {
      await assert.rejects(sandbox.commands.run("echo why >&2; exit 3"), (error) => {
        assert.ok(error instanceof CommandExitError);
        assert.equal(error.exitCode, 3);
        assert.equal(error.stderr, "why\n");
        return true;
      });
    });

    await t.test(
      "commands.run throws InvalidArgumentError for a folder that is not there",
      async () => {
        const running = sandbox.commands.run("true", { cwd: "/nowhere" });
        await assert.rejects(running, (error) => error instanceof sdk.InvalidArgumentError);
      },
    );

    await t.test(
      "commands.run streams output, commands.sendStdin gives input meanwhile",
      async () => {
        const pieces: string[] = [];
        const handle = await sandbox.commands.run("echo first; read line; echo second $line", {
          background: true,
          stdin: true,
          onStdout: (piece) => void pieces.push(piece),
        });
        await waitUntil("the first line is there", async () => pieces.length > 0 || undefined);
        assert.deepEqual(pieces, ["first\n"]);
        await sandbox.commands.sendStdin(handle.pid, "line\n");
        const { stdout } = await handle.wait();
        assert.equal(stdout, "first\nsecond line\n");
        assert.equal(pieces.join(""), stdout);
      },
    );

    await t.test("commands.run passes text through whole, however it is cut", async () => {
      const line = `python3 -c "import sys; sys.stdout.write('ä€😀' * 40000)"`;
      const { stdout } = await sandbox.commands.run(line);
      assert.equal(stdout, "ä€😀".repeat(40_000));
    });

    await t.test("commands.closeStdin ends the input", async () => {
      const handle = await sandbox.commands.run("wc -c", { background: true, stdin: true });
      await handle.sendStdin("12345");
      await handle.closeStdin();
      assert.equal((await handle.wait()).stdout, "5\n");
    });

    await t.test("commands.list names what runs, commands.kill ends it", async () => {
      const handle = await sandbox.commands.run("sleep 1000", { background: true });
      const found = (await sandbox.commands.list()).find(({ pid }) => pid === handle.pid);
      assert.deepEqual(found?.args, ["-l", "-c", "sleep 1000"]);
      assert.equal(await sandbox.commands.kill(handle.pid), true);
      await assert.rejects(handle.wait(), (error) => {
        assert.ok(error instanceof CommandExitError);
        assert.equal(error.exitCode, -1);
        assert.equal(error.error, "signal: killed");
        return true;
      });
      assert.equal(await sandbox.commands.kill(handle.pid), false);
      assert.ok(!(await sandbox.commands.list()).some(({ pid }) => pid === handle.pid));
    });

    await t.test("commands.connect goes on with a command after disconnect", async () => {
      const started = await sandbox.commands.run("read line; echo got $line; exit 4", {
        background: true,
        stdin: true,
      });
      await started.disconnect();
      const again = await sandbox.commands.connect(started.pid);
      await sandbox.commands.sendStdin(started.pid, "it\n");
      await assert.rejects(again.wait(), (error) => {
        assert.ok(error instanceof CommandExitError);
        assert.equal(error.exitCode, 4);
        assert.equal(error.stdout, "got it\n");
        return true;
      });
    });

    await t.test("commands.connect after the end still learns the exit code", async () => {
      const started = await sandbox.commands.run("read line; exit 5", {
        background: true,
        stdin: true,
      });
      await started.disconnect();
      await sandbox.commands.sendStdin(started.pid, "\n");
      await waitUntil("it has ended", async () => {
        const running = await sandbox.commands.list();
        return running.every(({ pid }) => pid !== started.pid) || undefined;
      });
      const late = await sandbox.commands.connect(started.pid);
      await assert.rejects(
        late.wait(),
        (error) => error instanceof CommandExitError && error.exitCode === 5,
      );
      await assert.rejects(
        sandbox.commands.connect(999_999),
        (error) => error instanceof sdk.NotFoundError,
      );
    });

    await t.test("commands.run with timeoutMs ends the command and what it started", async () => {
      await assert.rejects(
        sandbox.commands.run("sleep 2001 & sleep 2002", { timeoutMs: 3_000 }),
        (error) => error instanceof sdk.TimeoutError,
      );
      await waitUntil("nothing of it is left", async () => {
        const { stdout } = await sandbox.commands.run("pgrep -fx 'sleep 200[12]' || true");
        return stdout === "" || undefined;
      });
    });

    await t.test(
      "pty.create gives a terminal, pty.sendInput types, pty.resize resizes",
      async () => {
        let shown = "";
        const terminal = await sandbox.pty.create({
          cols: 100,
          rows: 30,
          onData: (bytes) => void (shown += Buffer.from(bytes).toString()),
        });
        const type = async (text: string): Promise<void> =>
          await sandbox.pty.sendInput(terminal.pid, Buffer.from(text));
        await type("stty size; tty\n");
        const sizeAndName = /\b30 100\s+\/dev\/pts\//;
        await waitUntil(
          "size and name are shown",
          async () => sizeAndName.test(shown) || undefined,
        );
        await sandbox.pty.resize(terminal.pid, { cols: 120, rows: 40 });
        await type("stty size\n");
        await waitUntil("the new size is shown", async () => /\b40 120\b/.test(shown) || undefined);
        await type("exit 0\n");
        assert.equal((await terminal.wait()).exitCode, 0);
      },
    );

    await t.test("pty.connect goes on with a terminal, pty.kill ends it", async () => {
      const terminal = await sandbox.pty.create({ cols: 80, rows: 24, onData: () => undefined });
      await terminal.disconnect();
      let shown = "";
      const again = await sandbox.pty.connect(terminal.pid, {
        onData: (bytes) => void (shown += Buffer.from(bytes).toString()),
      });
      await sandbox.pty.sendInput(terminal.pid, Buffer.from("echo $((6 * 7))\n"));
      await waitUntil("it answers", async () => /^42\s/m.test(shown) || undefined);
      assert.equal(await sandbox.pty.kill(terminal.pid), true);
      await assert.rejects(again.wait(), (error) => error instanceof CommandExitError);
    });

    assert.equal(await sandbox.kill(), true);
  });
});
