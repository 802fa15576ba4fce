/** Requests that a client sends on one connection without waiting for answers. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { type ServerResponse, createServer } from "node:http";
import { test } from "node:test";
import { sandboxId, startTestEdge, userPort } from "./fixtures.ts";
import { pipelinedMax } from "./limits.ts";

test("one connection has a bounded number of requests at a guest, and the next is refused", async () => {
  await using edge = await startTestEdge();
  const waiting: ServerResponse[] = [];
  const { promise: allCame, resolve } = Promise.withResolvers<void>();
  const server = createServer((_request, response) => {
    waiting.push(response);
    if (waiting.length === pipelinedMax) resolve();
  });
  await edge.serve(userPort, server);
  const socket = await edge.connect();
  const head = `GET / HTTP/1.1\r\nHost: ${userPort}-${sandboxId}.localhost\r\n\r\n`;
  socket.write(head.repeat(pipelinedMax + 10));
  let text = "";
  socket.on("data", (bytes: Buffer) => (text += bytes.toString("latin1")));
  await allCame;
  for (const response of waiting) response.end("answered");
  await once(socket, "close");
  assert.equal(waiting.length, pipelinedMax);
  assert.equal(text.match(/HTTP\/1\.1 200 /g)?.length, pipelinedMax);
  assert.equal(text.match(/HTTP\/1\.1 429 /g)?.length, 1, "then nothing more is served");
});
