import assert from "node:assert/strict";
import { rm, writeFile } from "node:fs/promises";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import { DaemonClient } from "./daemon-client.ts";
import { FakeDaemon, accessToken, sandboxInfo } from "./fixtures.ts";

test("sandboxes are read with all their fields", async () => {
  await using daemon = await FakeDaemon.start();
  const sandbox = sandboxInfo({
    state: "checkpointing",
    metadata: { a: "b" },
    lastLines: ["last"],
    onTimeout: "pause",
    endAtMs: 1,
    leftMs: 2,
    idleTimeoutMs: 3,
    maxRunMs: 4,
    missedDeadline: { rule: "timeout", atMs: 5, message: "the disk is full" },
    snapshot: {
      id: "a",
      generation: 2,
      createdAtMs: 5,
      memoryBytes: 6,
      memoryLayers: 7,
      diskBytes: 8,
      diskLayers: 9,
    },
    hasPrevious: true,
  });
  daemon.sandboxes = [sandbox];
  const client = new DaemonClient(daemon.socketPath);
  assert.deepEqual(await client.list(), [sandbox]);
  assert.deepEqual(await client.look(sandbox.id), sandbox);
});

test("what an older daemon does not say has a default", async () => {
  await using daemon = await FakeDaemon.start();
  const { id, template, templateId, state, generation, createdAtMs } = sandboxInfo();
  const body = { id, template, templateId, state, generation, createdAtMs };
  daemon.answer = () => ({ status: 200, body });
  const read = await new DaemonClient(daemon.socketPath).look(id);
  assert.deepEqual(read, sandboxInfo({ pid: null, startedAtMs: null }));
});

test("create sends what was asked for and returns the token and the times", async () => {
  await using daemon = await FakeDaemon.start();
  const bodies: unknown[] = [];
  daemon.answer = ({ method, body }) => {
    if (method !== "POST") return undefined;
    bodies.push(JSON.parse(body));
    const answer = { sandboxID: "i1", envdAccessToken: accessToken };
    return { status: 201, body: answer, headers: { "server-timing": "boot;dur=3" } };
  };
  const client = new DaemonClient(daemon.socketPath);
  const created = await client.create({ template: "base", env: { A: "1" }, metadata: { b: "2" } });
  const asked = { templateID: "base", envVars: { A: "1" }, metadata: { b: "2" }, timeoutMs: null };
  assert.deepEqual(bodies, [asked]);
  const timings = [{ step: "boot", tookMs: 3 }];
  assert.deepEqual(created, { id: "i1", accessToken, timings });
});

test("the daemon's error arrives as it was sent", async () => {
  await using daemon = await FakeDaemon.start();
  const error = new TorporError("storage.noSpace", "the disk is full", {
    effect: "maybe",
    advice: "Buy a disk.",
  });
  daemon.answer = () => ({ status: error.status, body: { ...error.toBody() } });
  await assert.rejects(new DaemonClient(daemon.socketPath).resume("i1"), {
    code: "storage.noSpace",
    rawMessage: "the disk is full",
    effect: "maybe",
    advice: "Buy a disk.",
  });
});

test("an answer that is not ours still names its status", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.answer = () => ({ status: 418, body: "<html>" });
  await assert.rejects(new DaemonClient(daemon.socketPath).list(), /status 418/);
});

test("pausing a paused sandbox changes nothing; another wrong state is a failure", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" })];
  const client = new DaemonClient(daemon.socketPath);
  const first = await client.pause("iaaa");
  assert.deepEqual(first.timings.at(-1), { step: "total", tookMs: 2 });
  assert.equal(first.changed, true);
  assert.equal((await client.pause("iaaa")).changed, false);
  daemon.sandboxes = [sandboxInfo({ id: "iaaa", state: "removing" })];
  daemon.answer = ({ path }) =>
    path.endsWith("/pause")
      ? { status: 409, body: { ...new TorporError("sandbox.wrongState", "no").toBody() } }
      : undefined;
  await assert.rejects(client.pause("iaaa"), { code: "sandbox.wrongState" });
});

test("resume tells whether it changed anything", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa", state: "paused", pid: null })];
  const client = new DaemonClient(daemon.socketPath);
  assert.equal((await client.resume("iaaa")).changed, true);
  assert.equal((await client.resume("iaaa")).changed, false);
});

test("never is sent, and what is not asked for is not", async () => {
  await using daemon = await FakeDaemon.start();
  const client = new DaemonClient(daemon.socketPath);
  const lifetime = { timeoutMs: null, onTimeout: "pause", maxRunMs: 5_000 } as const;
  await client.create({ template: "base", env: {}, metadata: {}, lifetime });
  assert.deepEqual(daemon.bodies, [
    {
      templateID: "base",
      envVars: {},
      metadata: {},
      timeoutMs: null,
      autoPause: true,
      maxRunMs: 5_000,
    },
  ]);
});

test("a fork has an id or an error for each child", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" })];
  const { children, timings } = await new DaemonClient(daemon.socketPath).fork("iaaa", 3, {});
  const [first, second, third] = children;
  assert.deepEqual([first, third], ["inew1", "inew2"]);
  assert.ok(TorporError.is(second) && second.code === "storage.noSpace");
  assert.equal(timings.length, 2);
});

test("without a daemon nothing can have happened", async () => {
  const daemon = await FakeDaemon.start();
  const client = new DaemonClient(daemon.socketPath);
  assert.equal(await client.isAnswering(), true);
  await daemon[Symbol.asyncDispose]();
  assert.equal(await client.isAnswering(), false);
  await assert.rejects(client.remove("iaaa"), { code: "daemon.unreachable", effect: "none" });
});

test("a file in the place of the socket is no daemon", async () => {
  await using daemon = await FakeDaemon.start();
  await rm(daemon.socketPath);
  await writeFile(daemon.socketPath, "");
  assert.equal(await new DaemonClient(daemon.socketPath).isAnswering(), false);
});

test("a line that breaks after the request leaves its effect open", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.answer = () => ({ status: 200, headers: { "content-length": "5" }, body: "" });
  const client = new DaemonClient(daemon.socketPath);
  await assert.rejects(client.resume("iaaa"), { code: "daemon.unreachable", effect: "maybe" });
  await assert.rejects(client.list(), { code: "daemon.unreachable", effect: "none" });
});

/** Breaks the connection of a request in place of an answer. */
const broken = { status: 200, headers: { "content-length": "5" }, body: "" };

test("what makes something is sent once more when the line broke, with the same key", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.sandboxes = [sandboxInfo({ id: "iaaa" })];
  const client = new DaemonClient(daemon.socketPath);
  const used = new Set<unknown>();
  for (const make of [
    () => client.create({ template: "base", env: {}, metadata: {} }),
    () => client.fork("iaaa", 1, {}),
    () => client.takeSnapshot("iaaa", "mine"),
  ]) {
    const sent: (readonly unknown[])[] = [];
    daemon.answer = ({ method, path, headers, body }) => {
      if (method !== "POST") return undefined;
      sent.push([path, headers["idempotency-key"], body]);
      return sent.length === 1 ? broken : undefined;
    };
    await make();
    assert.equal(sent.length, 2);
    assert.deepEqual(sent[1], sent[0]);
    const key = sent[0]?.[1];
    assert.match(String(key), /^[0-9a-f-]{36}$/);
    assert.ok(!used.has(key));
    used.add(key);
  }
});

test("a line that stays broken is told, and what may have been made", async () => {
  await using daemon = await FakeDaemon.start();
  const client = new DaemonClient(daemon.socketPath, 200);
  const create = () => client.create({ template: "base", env: {}, metadata: {} });
  let count = 0;
  daemon.answer = ({ method }) => {
    if (method !== "POST") return undefined;
    count += 1;
    return broken;
  };
  await assert.rejects(create(), { code: "daemon.unreachable", effect: "maybe" });
  assert.equal(count, 2);
  let ended: Promise<void> | undefined;
  daemon.answer = ({ method }) => {
    if (method === "POST") ended = daemon[Symbol.asyncDispose]();
    return broken;
  };
  await assert.rejects(create(), {
    code: "daemon.unreachable",
    effect: "maybe",
    message: /none answered again in 0\.2 s/,
  });
  await ended;
});

test("what the daemon refuses is not sent again", async () => {
  await using daemon = await FakeDaemon.start();
  let count = 0;
  daemon.answer = () => {
    count += 1;
    return { status: 429, body: { ...new TorporError("host.busy", "too many").toBody() } };
  };
  const client = new DaemonClient(daemon.socketPath);
  await assert.rejects(client.takeSnapshot("iaaa", undefined), { code: "host.busy" });
  assert.equal(count, 1);
});

test("a state that we do not know is refused", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.answer = () => ({ status: 200, body: { ...sandboxInfo(), state: "dreaming" } });
  await assert.rejects(new DaemonClient(daemon.socketPath).look("iaaa"), /dreaming/);
});
