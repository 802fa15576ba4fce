/**
 * A command prints on and on while its sandbox sleeps and wakes. Whoever listens is cut off at once,
 * comes back with the place where it had to stop, and has every byte exactly once in the end.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { ConnectError } from "@connectrpc/connect";
import { startTestDaemon, waitUntil } from "@torpor/testing";
import { Deadline } from "@torpor/std";

/** Far below the minutes after which a dead connection would be noticed by itself. */
const atOnceMs = 5_000;
/** Prints a numbered line to each stream until it is told to stop, and ends with a code of its own. */
const counter =
  "n=0; until read -t 0.02 line; do n=$((n + 1)); echo out $n; echo err $n >&2; done; exit 7";

function numbered(word: string, count: number): string {
  return Array.from({ length: count }, (_, index) => `${word} ${index + 1}\n`).join("");
}

test("a stream that is open across pauses is cut at once, goes on, and misses nothing", async () => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  let stdout = "";
  let stderr = "";
  let listener = await sandbox.start(["bash", "-c", counter], { stdin: true });
  try {
    for (const cycle of [1, 2]) {
      await listener.readLine();
      await sandbox.pause();
      const cut = Deadline.after(atOnceMs, `the cut of pause ${cycle}`).race(listener.finish());
      await assert.rejects(cut, (error) => error instanceof ConnectError);
      stdout += listener.stdout;
      stderr += listener.stderr;

      await sandbox.resume();
      const { offsets, pid } = listener;
      await waitUntil("it has printed while nobody listened", async () => {
        const ahead = { stdout: offsets.stdout + 100, stderr: offsets.stderr };
        using probe = await sandbox.reconnect(pid, ahead).catch(() => undefined);
        return probe !== undefined || undefined;
      });
      listener[Symbol.dispose]();
      listener = await sandbox.reconnect(pid, offsets);
    }
    await listener.readLine();
    await listener.write("stop\n");
    const ended = await listener.finish();
    assert.equal(ended.exitCode, 7);
    stdout += ended.stdout;
    stderr += ended.stderr;
  } finally {
    listener[Symbol.dispose]();
  }
  const count = stdout.split("\n").length - 1;
  assert.equal(stdout, numbered("out", count));
  assert.equal(stderr, numbered("err", count));
});
