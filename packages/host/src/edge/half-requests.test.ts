/** Clients that begin requests and do not end them: what they hold is a share, and others are served. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:http";
import { type Socket } from "node:net";
import { test } from "node:test";
import { agentPort } from "@torpor/protocol";
import {
  type TestEdge,
  addressed,
  otherSandboxId,
  sandboxId,
  startTestEdge,
  userPort,
} from "./fixtures.ts";
import { limitsFor } from "./limits.ts";

const descriptors = 800;
const limits = limitsFor(descriptors);

/** A head that announces a body, and no body. */
function halfRequest(id: string, port = userPort): string {
  const names = Object.entries(addressed(port, id)).map(([name, value]) => `${name}: ${value}\r\n`);
  return `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n${names.join("")}\r\n`;
}

/** A half request, and what came back until its connection was closed; undefined: it is held. */
interface Half {
  readonly socket: Socket;
  answer: string | undefined;
}

async function sendHalf(edge: TestEdge, id: string): Promise<Half> {
  const socket = await edge.connect();
  const half: Half = { socket, answer: undefined };
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += String(chunk)));
  socket.on("error", () => undefined);
  socket.on("close", () => (half.answer = text));
  socket.write(halfRequest(id));
  return half;
}

test("half requests to one port hold a share of its sandbox, and the others are refused at once", async () => {
  await using edge = await startTestEdge({ descriptors });
  await edge.serve(userPort, (request, response) => {
    request.resume().once("end", () => response.end("hello"));
  });
  await edge.serve(agentPort, (_request, response) => response.end("agent"));
  const halves: Half[] = [];
  for (let count = 0; count < limits.connections - 10; count += 1) {
    halves.push(await sendHalf(edge, sandboxId));
  }
  const refused = halves.slice(limits.strangersPerSandbox);
  for (const half of refused) if (half.answer === undefined) await once(half.socket, "close");
  for (const { answer } of refused) {
    assert.match(answer ?? "", /^HTTP\/1\.1 429 /);
    assert.match(answer ?? "", /^Retry-After: 1\r$/m);
    assert.match(answer ?? "", /"code":429/);
  }
  assert.equal(edge.dials.length, limits.strangersPerSandbox, "the guest hears of its share only");
  assert.ok(
    halves.slice(0, limits.strangersPerSandbox).every(({ answer }) => answer === undefined),
  );
  // Its owner, and everybody else.
  const owner = { headers: { ...addressed(agentPort), "X-Access-Token": "token" } };
  assert.equal((await edge.get("/", owner)).text, "agent");
  assert.equal((await edge.get("/", { headers: addressed(agentPort) })).status, 429);
  for (let count = 0; count < 50; count += 1) {
    const { text } = await edge.get("/", { headers: addressed(userPort, otherSandboxId) });
    assert.equal(text, "hello");
  }
  halves[0]?.socket.destroy();
  while ((await edge.get("/")).status !== 200);
});

test("what waits for a sandbox to wake holds a share as well", async () => {
  await using edge = await startTestEdge({ descriptors, autoResume: true });
  await edge.serve(userPort, (_request, response) => response.end("hello"));
  edge.sandbox.end();
  const woken = Promise.withResolvers<void>();
  edge.sandbox.resumeWork = () => woken.promise;
  const waiting = Array.from({ length: limits.strangersPerSandbox }, () => edge.get("/"));
  while ((await edge.get("/", { headers: addressed() })).status !== 429);
  woken.resolve();
  for (const answer of await Promise.all(waiting)) assert.equal(answer.text, "hello");
  assert.equal((await edge.get("/")).text, "hello");
});

test("idle connections to one guest are bounded over all of its ports", async () => {
  await using edge = await startTestEdge();
  const open = new Set<Socket>();
  for (let index = 0; index < 4; index += 1) {
    const server = createServer({ keepAliveTimeout: 60_000 }, (_request, response) => {
      setTimeout(() => response.end(), 20);
    });
    server.on("connection", (socket) => {
      open.add(socket);
      socket.once("close", () => open.delete(socket));
    });
    await edge.serve(4_000 + index, server);
  }
  for (let index = 0; index < 4; index += 1) {
    const headers = addressed(4_000 + index);
    await Promise.all(Array.from({ length: 40 }, () => edge.get("/", { headers })));
  }
  while (open.size > 64) await edge.get("/", { headers: addressed(1_234) });
  assert.ok(open.size > 0);
});
