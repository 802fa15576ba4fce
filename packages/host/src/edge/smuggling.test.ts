/** Nothing that a client sends in one request reaches the guest as two. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { test } from "node:test";
import { sandboxId, startTestEdge, textOf, userPort } from "./fixtures.ts";

const host = `Host: ${userPort}-${sandboxId}.localhost\r\n`;
const hidden = `POST /hidden HTTP/1.1\r\n${host}Content-Length: 0\r\n\r\n`;

for (const method of ["GET", "HEAD", "DELETE", "OPTIONS", "POST"]) {
  for (const name of ["content-length", "Content-Length, keep-alive", "close, CONTENT-LENGTH"]) {
    test(`${method} keeps its body as a body when Connection names ${name}`, async () => {
      await using edge = await startTestEdge();
      const seen: string[] = [];
      await edge.serve(userPort, (request, response) => {
        const note = async (): Promise<void> => {
          seen.push(`${request.method} ${request.url} ${await textOf(request)}`);
          response.end("x");
        };
        void note();
      });
      const socket = await edge.connect();
      socket.write(
        `${method} /first HTTP/1.1\r\n${host}Connection: ${name}\r\n` +
          `Content-Length: ${hidden.length}\r\n\r\n${hidden}`,
      );
      await once(socket, "data");
      socket.destroy();
      await edge.get("/second");
      assert.deepEqual(seen, [`${method} /first ${hidden}`, "GET /second "]);
    });
  }
}
