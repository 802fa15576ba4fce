/** Requests while a sandbox is paused, is woken, or is in a transition. */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { ServerResponse } from "node:http";
import { performance } from "node:perf_hooks";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { agentPort } from "@torpor/protocol";
import { addressed, startTestEdge, textOf, userPort, type TestEdge } from "./fixtures.ts";

function trafficOf(edge: TestEdge): NonNullable<TestEdge["sandbox"]["run"]>["traffic"] {
  const { run } = edge.sandbox;
  assert.ok(run !== undefined);
  return run.traffic;
}

test("ten requests to a sandbox that sleeps make one resume, and all are answered", async () => {
  await using edge = await startTestEdge({ autoResume: true });
  await edge.serve(userPort, (_request, response) => response.end("awake"));
  edge.sandbox.end();
  edge.sandbox.resumeWork = async () => await sleep(100);
  const answers = await Promise.all(Array.from({ length: 10 }, () => edge.get("/")));
  assert.deepEqual(new Set(answers.map(({ text }) => text)), new Set(["awake"]));
  assert.equal(edge.sandbox.resumes, 1);
});

test("tokens are looked at before anything is woken", async () => {
  const network = { allowPublicTraffic: false };
  await using edge = await startTestEdge({ autoResume: true, accessToken: "right", network });
  edge.sandbox.end();
  assert.equal((await edge.get("/")).status, 403);
  for (const token of [undefined, "wrong"]) {
    const headers = {
      ...addressed(agentPort),
      ...(token === undefined ? {} : { "X-Access-Token": token }),
    };
    assert.equal((await edge.get("/files", { headers })).status, 403);
  }
  assert.equal(edge.sandbox.resumes, 0);
  const headers = { ...addressed(agentPort), "X-Access-Token": "right" };
  assert.equal((await edge.get("/files", { headers })).status, 200);
  assert.equal(edge.sandbox.resumes, 1);
});

test("a look at the agent's health wakes nothing and is no use of the sandbox", async (t) => {
  await using edge = await startTestEdge({ autoResume: true, accessToken: "right" });
  const headers = { ...addressed(agentPort), "X-Access-Token": "right" };
  const begin = t.mock.method(edge.sandbox.activity, "begin");
  for (const method of ["GET", "HEAD"]) {
    assert.equal((await edge.get("/health", { headers, method })).status, 200);
  }
  assert.equal(begin.mock.callCount(), 0);
  edge.sandbox.end();
  for (const [method, path] of [
    ["GET", "/health"],
    ["HEAD", "/health"],
    ["GET", "/health?now"],
  ] as const) {
    const { status, text } = await edge.get(path, { headers, method });
    assert.equal(status, 502);
    if (method === "GET") assert.match(text, /was not found/);
  }
  assert.equal(edge.sandbox.resumes, 0);
  // A client with work for the guest wakes it, also on a server's own /health.
  assert.equal((await edge.get("/health", { headers, method: "POST" })).status, 200);
  assert.equal(edge.sandbox.resumes, 1);
});

test("a wake that fails is 502 for all who waited, and the next request tries again", async () => {
  await using edge = await startTestEdge({ autoResume: true });
  await edge.serve(userPort, (_request, response) => response.end("awake"));
  edge.sandbox.end();
  edge.sandbox.resumeWork = async () => {
    await sleep(300);
    throw new TypeError("/secret/path is gone");
  };
  const answers = await Promise.all([edge.get("/"), edge.get("/")]);
  for (const { status, text } of answers) {
    assert.equal(status, 502);
    assert.doesNotMatch(text, /secret/);
  }
  assert.equal(edge.sandbox.resumes, 1);
  edge.sandbox.resumeWork = async () => undefined;
  assert.equal((await edge.get("/")).text, "awake");
});

test("a wake that takes too long is 409", async () => {
  await using edge = await startTestEdge({ autoResume: true, transitionMs: 50 });
  edge.sandbox.end();
  const slow = Promise.withResolvers<void>();
  edge.sandbox.resumeWork = async () => await slow.promise;
  assert.equal((await edge.get("/")).status, 409);
  slow.resolve();
});

test("requests wait for a sandbox that somebody else is waking", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => response.end("awake"));
  edge.sandbox.end();
  edge.sandbox.record = { ...edge.sandbox.record, state: { kind: "resuming" } };
  edge.sandbox.idle = sleep(50).then(() => edge.sandbox.start());
  assert.equal((await edge.get("/")).text, "awake");
  assert.equal(edge.sandbox.resumes, 0);
});

test("requests that come during a pause wait, and go on if it fails", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => response.end("awake"));
  const hold = trafficOf(edge).hold();
  const waiting = edge.get("/");
  await sleep(50);
  assert.deepEqual(edge.dials, []);
  hold[Symbol.dispose]();
  assert.equal((await waiting).text, "awake");
});

test("requests that come during a pause are told when it is done, or wake it again", async () => {
  for (const autoResume of [false, true]) {
    await using edge = await startTestEdge({ autoResume });
    await edge.serve(userPort, (_request, response) => response.end("awake"));
    trafficOf(edge).hold();
    const waiting = edge.get("/");
    await sleep(20);
    edge.sandbox.end();
    assert.equal((await waiting).status, autoResume ? 200 : 502);
    assert.equal(edge.sandbox.resumes, autoResume ? 1 : 0);
  }
});

test("a pause waits for short requests, for a bounded time, and not for streams", async () => {
  await using edge = await startTestEdge();
  const responses: ServerResponse[] = [];
  await edge.serve(userPort, (request, response) => {
    responses.push(response);
    if (request.url !== "/stream") return;
    response.writeHead(200, { "Content-Type": "text/event-stream" });
    response.flushHeaders();
  });
  const traffic = trafficOf(edge);
  const stream = await edge.send("/stream");
  const startedMonoMs = performance.now();
  await traffic.drain(5_000);
  assert.ok(performance.now() - startedMonoMs < 1_000, "a stream is not waited for");

  const short = edge.get("/short");
  while (responses.length < 2) await sleep(5);
  const drained = traffic.drain(5_000);
  responses[1]?.end("done");
  assert.equal((await short).text, "done");
  await drained;

  const hung = edge.get("/hung");
  while (responses.length < 3) await sleep(5);
  await traffic.drain(100);
  edge.sandbox.end();
  assert.deepEqual(JSON.parse((await hung).text), {
    message: "The sandbox was not found: it was paused",
    sandboxId: edge.sandbox.record.id,
    port: userPort,
    code: 502,
  });
  await assert.rejects(textOf(stream), "cut, and not ended as if it were complete");
});

test("a Connect stream that is cut between envelopes says why", async () => {
  await using edge = await startTestEdge();
  const message = Buffer.from("\0\0\0\0\x02{}", "latin1");
  await edge.serve(userPort, (request, response) => {
    response.writeHead(200, { "Content-Type": "application/connect+json" });
    response.write(request.url === "/half" ? message.subarray(0, 3) : message);
  });
  const whole = await edge.send("/whole");
  await once(whole, "data");
  const half = await edge.send("/half");
  await once(half, "data");
  edge.sandbox.end();
  const last = await textOf(whole);
  assert.equal(last.charCodeAt(0), 2);
  assert.deepEqual(JSON.parse(last.slice(5)), {
    error: { code: "unavailable", message: "The sandbox was paused" },
  });
  await assert.rejects(textOf(half));
});

test("a stream of a sandbox that is stopped is broken off, between envelopes too", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => {
    response.writeHead(200, { "Content-Type": "application/connect+json" });
    response.write(Buffer.from("\0\0\0\0\x02{}", "latin1"));
  });
  const stream = await edge.send("/");
  await once(stream, "data");
  const old = await edge.connect();
  old.write("GET / HTTP/1.0\r\nE2b-Sandbox-Id: itest\r\nE2b-Sandbox-Port: 3000\r\n\r\n");
  await once(old, "data");
  const reset = once(old, "error");
  edge.sandbox.end("stopped");
  await assert.rejects(textOf(stream));
  assert.match(String((await reset)[0]), /ECONNRESET/, "HTTP/1.0 knows no other sign");
});

test("a client that does not read holds nothing up, and keeps no sandbox awake", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => {
    response.writeHead(200, { "Content-Type": "application/connect+json" });
    const chunk = Buffer.concat([Buffer.from([0, 0, 0, 255, 251]), Buffer.alloc(65_531)]);
    const pump = (): void => {
      while (!response.destroyed && response.write(chunk));
      response.once("drain", pump);
    };
    pump();
  });
  const answer = await edge.send("/");
  answer.pause();
  await sleep(100);
  const traffic = trafficOf(edge);
  edge.sandbox.end();
  await sleep(0);
  assert.equal(traffic.count, 0);
  assert.ok(edge.sandbox.activity.lastUsedAtMs < Date.now() + 1);
  const lastUsedAtMs = edge.sandbox.activity.lastUsedAtMs;
  await sleep(20);
  assert.equal(edge.sandbox.activity.lastUsedAtMs, lastUsedAtMs, "nobody uses it any more");
  answer.destroy();
});

test("no connection of one run is used in the next", async () => {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (_request, response) => response.end("x"));
  await edge.get("/");
  await edge.get("/");
  assert.equal(edge.dials.length, 1);
  edge.sandbox.end();
  edge.sandbox.start();
  await edge.get("/");
  assert.equal(edge.dials.length, 2);
});
