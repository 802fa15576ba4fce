/**
 * A large file goes in and out through the published SDK as a stream. The daemon is a process of its own here, so that its memory can be measured.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { test } from "node:test";
import { StateFolder, spawnTestDaemon } from "@torpor/testing";
import { Sandbox } from "e2b";
import { clientEnvironment, setEnvironment } from "./published-clients.ts";

const mebibyte = 1 << 20;
/** An emulated guest moves some 12 MiB a second. */
const fileBytes = 1024 * mebibyte;
/** LIMIT: the sandbox is there for as long as the runner gives this file. */
const sandboxTimeoutMs = 15 * 60_000;
/** What the daemon may need more than before, whatever the size: buffers of two connections. */
const daemonGrowthBytesMax = 64 * mebibyte;

/** Peak of resident memory since the peak was last forgotten. */
async function peakBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  return Number(/^VmHWM:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

/** `fileBytes` that do not compress, made while they are read, and their digest. */
function largeContent(): { stream: ReadableStream<Uint8Array>; digest: () => string } {
  const hash = createHash("sha256");
  const block = new Uint8Array(mebibyte);
  let sentBytes = 0;
  const stream = new ReadableStream<Uint8Array>({
    pull(controller) {
      for (let at = 0; at < block.length; at += 4096) block[at] = (sentBytes >>> 20) + at;
      hash.update(block);
      controller.enqueue(block.slice());
      sentBytes += block.length;
      if (sentBytes >= fileBytes) controller.close();
    },
  });
  return { stream, digest: () => hash.digest("hex") };
}

test("files.write and files.read stream 1 GiB, and the daemon's memory stays flat", async (t) => {
  await using state = await StateFolder.make();
  await using daemon = await spawnTestDaemon(state);
  using _ = setEnvironment(await clientEnvironment(daemon.api));
  const sandbox = await Sandbox.create({ timeoutMs: sandboxTimeoutMs });
  await sandbox.commands.run("true");
  const beforeBytes = await peakBytes(daemon.pid);

  const startedMs = Date.now();
  const { stream, digest } = largeContent();
  await sandbox.files.write("large", stream);
  assert.equal((await sandbox.files.getInfo("large")).size, fileBytes);
  const writtenMs = Date.now();

  const hash = createHash("sha256");
  for await (const chunk of await sandbox.files.read("large", { format: "stream" })) {
    hash.update(chunk);
  }
  assert.equal(hash.digest("hex"), digest());
  const growthBytes = (await peakBytes(daemon.pid)) - beforeBytes;
  assert.ok(growthBytes < daemonGrowthBytesMax, `the daemon grew by ${growthBytes} bytes`);
  t.diagnostic(
    `in ${writtenMs - startedMs} ms, out ${Date.now() - writtenMs} ms; daemon +${growthBytes} bytes`,
  );
  await sandbox.kill();
  await daemon.stop();
});
