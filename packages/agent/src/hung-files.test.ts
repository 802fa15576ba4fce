/**
 * Files that never answer: pipes, files of the kernel that wait for events, and a mount whose
 * server is dead. It is a real FUSE mount without a server, so the kernel holds every thread that
 * looks at it.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { constants } from "node:fs";
import { mkdir, open, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { cancelRoute, prepareRoute } from "@torpor/protocol";
import { type TestAgent, startScript, startTestAgent } from "./fixtures.ts";
import { mountWithoutServer } from "./mount-fixtures.ts";

const isRoot = process.geteuid?.() === 0;
/** Several times the threads that Node has. */
const requestsMany = 16;

function filesUrl(agent: TestAgent, path: string): string {
  return `${agent.url}/files?${new URLSearchParams({ path }).toString()}`;
}

async function put(agent: TestAgent, path: string, signal?: AbortSignal): Promise<number> {
  const response = await fetch(filesUrl(agent, path), {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: "content",
    ...(signal === undefined ? {} : { signal }),
  });
  return response.status;
}

async function works(agent: TestAgent): Promise<void> {
  const ended = await startScript(agent, "echo works").rest();
  assert.equal(ended.stdout, "works\n");
}

test("A pipe is no file: uploads, downloads and parts of it are refused at once", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "pipe");
  execFileSync("mkfifo", [path]);
  const many = Array.from({ length: requestsMany });
  const uploads = await Promise.all(many.map(async () => await put(agent, path)));
  assert.deepEqual(new Set(uploads), new Set([400]));
  const downloads = await Promise.all(many.map(async () => await fetch(filesUrl(agent, path))));
  assert.deepEqual(new Set(downloads.map(({ status }) => status)), new Set([400]));
  const compose = await fetch(`${agent.url}/files/compose`, {
    method: "POST",
    body: JSON.stringify({ source_paths: [path], destination: join(agent.folder, "whole") }),
  });
  assert.equal(compose.status, 400);
  await works(agent);
});

test("A download of a pipe lets nobody pass who waits at its other end", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "pipe");
  execFileSync("mkfifo", [path]);
  const writer = startScript(agent, `echo text >${path}; echo passed`);
  await writer.pid();
  assert.equal((await fetch(filesUrl(agent, path))).status, 400);
  assert.equal(await readFile(path, "utf8"), "text\n");
  assert.equal((await writer.rest()).stdout, "passed\n");
});

test(
  "Downloads of a file that waits for events end with what is there",
  { skip: !isRoot },
  async (t) => {
    const path = "/proc/kmsg";
    const kmsg = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch(() => undefined);
    await kmsg?.close();
    if (kmsg === undefined) {
      t.skip("this machine does not let its kernel's log be read");
      return;
    }
    await using agent = await startTestAgent();
    for (let count = 0; count < 5; count += 1) {
      const response = await fetch(filesUrl(agent, path));
      assert.equal(response.status, 200);
      await response.text();
    }
    await works(agent);
  },
);

test(
  "While a mount hangs, commands start and the guest is paused",
  { skip: !isRoot },
  async (t) => {
    await using agent = await startTestAgent();
    await agent.init();
    const hung = join(agent.folder, "hung");
    await mkdir(hung);
    await writeFile(join(agent.folder, "file"), "content");
    // What is started here is known to be on the disk afterwards.
    await works(agent);
    const server = mountWithoutServer(hung);
    if (server === undefined) {
      t.skip("this machine has no FUSE");
      return;
    }
    using undo = new DisposableStack();
    undo.use(server);
    const clients = new AbortController();
    const { signal } = clients;
    const inside = join(hung, "x");
    const { files } = agent;
    const next = async (events: AsyncIterable<unknown>): Promise<unknown> =>
      await events[Symbol.asyncIterator]().next();
    const calls: readonly Promise<unknown>[] = [
      files.stat({ path: hung }, { signal }),
      files.stat({ path: inside }, { signal }),
      files.listDir({ path: agent.folder, depth: 2 }, { signal }),
      files.listDir({ path: hung }, { signal }),
      files.makeDir({ path: inside }, { signal }),
      files.move({ source: join(agent.folder, "file"), destination: inside }, { signal }),
      files.remove({ path: inside }, { signal }),
      files.createWatcher({ path: hung }, { signal }),
      next(files.watchDir({ path: agent.folder, recursive: true }, { signal })),
      fetch(filesUrl(agent, inside), { signal }),
      put(agent, inside, signal),
      startScript(agent, "true", { cwd: hung, signal }).pid(),
    ];
    const settled = Promise.allSettled(calls);
    await works(agent);
    assert.equal((await agent.host(prepareRoute)).status, 200);
    assert.equal((await agent.host(cancelRoute)).status, 200);
    await works(agent);

    clients.abort();
    for (const { status } of await settled) assert.equal(status, "rejected");
    await works(agent);
    server[Symbol.dispose]();
    const { entry } = await files.stat({ path: join(agent.folder, "file") });
    assert.equal(entry?.size, 7n);
  },
);

test(
  "A command in a folder that does not answer fails, and says so",
  { skip: !isRoot },
  async (t) => {
    await using agent = await startTestAgent();
    const hung = join(agent.folder, "hung");
    await mkdir(hung);
    await works(agent);
    const server = mountWithoutServer(hung);
    if (server === undefined) {
      t.skip("this machine has no FUSE");
      return;
    }
    using undo = new DisposableStack();
    undo.use(server);
    await assert.rejects(startScript(agent, "true", { cwd: hung }).pid(), (error) => {
      const { code, rawMessage } = ConnectError.from(error);
      assert.equal(code, Code.Aborted);
      assert.match(rawMessage, /did not answer/);
      return true;
    });
  },
);
