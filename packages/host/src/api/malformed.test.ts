/**
 * Requests that reach no route, or hold what is no number: each is refused in the form of every error,
 * with its request's id, and readable by scripts of any origin.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { parseJson } from "@torpor/std";
import { type SchemaValidator, startFakeApi } from "./fixtures.ts";
import { startAllListeners, textOf } from "./listeners-fixture.ts";

const trusting: SchemaValidator = { addSchema: () => undefined, compile: () => () => true };
const host = "Host: a\r\nConnection: close\r\n";

/** Status and code of what is answered to these bytes. */
const malformed: Readonly<Record<string, readonly [string, number, string]>> = {
  "a path that is no URL": [`GET /sandboxes/%zz HTTP/1.1\r\n${host}\r\n`, 400, "argument.invalid"],
  "a cut escape": [`GET /sandboxes/% HTTP/1.1\r\n${host}\r\n`, 400, "argument.invalid"],
  "bytes that are no UTF-8": [
    `GET /sandboxes/%ff%fe HTTP/1.1\r\n${host}\r\n`,
    400,
    "argument.invalid",
  ],
  "a long parameter": [
    `GET /sandboxes/${"a".repeat(5_000)} HTTP/1.1\r\n${host}\r\n`,
    400,
    "argument.invalid",
  ],
  "a long head": [
    `GET / HTTP/1.1\r\nX: ${"a".repeat(200_000)}\r\n${host}\r\n`,
    431,
    "request.headTooLarge",
  ],
  "a path that is not there": [`GET /nothing HTTP/1.1\r\n${host}\r\n`, 404, "route.missing"],
  "a method that is not there": [
    `PROPFIND /sandboxes HTTP/1.1\r\n${host}\r\n`,
    404,
    "route.missing",
  ],
  "a method that nobody knows": [
    `FROB /sandboxes HTTP/1.1\r\n${host}\r\n`,
    400,
    "argument.invalid",
  ],
  "a tunnel": [`CONNECT a:80 HTTP/1.1\r\n${host}\r\n`, 404, "route.missing"],
  "no host": ["GET /health HTTP/1.1\r\nConnection: close\r\n\r\n", 400, "argument.invalid"],
  "a version that is not spoken": [
    `GET /health HTTP/2.0\r\n${host}\r\n`,
    505,
    "request.badVersion",
  ],
  "an expectation": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Expect: the unexpected\r\n\r\n`,
    417,
    "request.expectation",
  ],
  "a length that is none": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Content-Length: 1e3\r\n\r\n`,
    400,
    "argument.invalid",
  ],
  "two lengths": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}`,
    400,
    "argument.invalid",
  ],
  "length and chunks": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n`,
    400,
    "argument.invalid",
  ],
  "long extensions of chunks": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Transfer-Encoding: chunked\r\n\r\n2;${"a".repeat(20_000)}\r\n{}\r\n0\r\n\r\n`,
    400,
    "argument.invalid",
  ],
  "a type that is none": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Content-Type: /;;\r\nContent-Length: 2\r\n\r\n{}`,
    400,
    "argument.invalid",
  ],
  "a body that is no JSON": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Content-Length: 1\r\n\r\n{`,
    400,
    "argument.invalid",
  ],
  "a body that is no UTF-8": [
    `POST /v2/sandboxes HTTP/1.1\r\n${host}Content-Length: 4\r\n\r\n"\u00ff\u00fe"`,
    400,
    "argument.invalid",
  ],
  "what is no HTTP": ["\u0016\u0003\u0001\r\n\r\n", 400, "argument.invalid"],
};

test("what reaches no route is refused in the API's own form", async () => {
  await using all = await startAllListeners({ validator: trusting });
  for (const [what, [bytes, status, code]] of Object.entries(malformed)) {
    for (const name of ["Unix socket", "TCP", "TLS"] as const) {
      const socket = await all.dial(name);
      socket.write(Buffer.from(bytes, "latin1"));
      const text = await textOf(socket);
      const [head = "", body = ""] = text.split("\r\n\r\n");
      assert.match(head, new RegExp(`^HTTP/1\\.1 ${status} `), `${what} on ${name}: ${text}`);
      assert.match(head, /^x-request-id: [\w.-]+\r?$/im, what);
      assert.match(head, /^access-control-allow-origin: \*\r?$/im, what);
      const said = parseJson(body, "answer") as Record<string, unknown>;
      assert.deepEqual([said["code"], said["error_code"]], [status, code], what);
      for (const field of ["message", "effect", "advice"]) {
        assert.equal(typeof said[field], "string", what);
      }
    }
  }
});

/** Texts that `Number` accepts and that are not numbers here. */
const noNumbers = [
  "",
  "0x10",
  "1e3",
  "+5",
  " 5",
  "5 ",
  "5.0",
  "-0",
  "٥",
  "Infinity",
  "1,2",
  "9".repeat(17),
];

test("numbers in queries are digits and nothing else", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const { id } = api.sandboxes.add().record;
  let seen = 0;
  for (const { method, path, query = {} } of api.routes) {
    for (const [name, { type }] of Object.entries(query)) {
      if (type !== "integer") continue;
      const url = path.replace("{sandboxID}", id);
      assert.equal((await api.call(method, `${url}?${name}=5`)).status, 200, `${path} ${name}`);
      for (const text of noNumbers) {
        const answer = await api.call(method, `${url}?${name}=${encodeURIComponent(text)}`);
        assert.equal(answer.status, 400, `${path} ${name}="${text}": ${answer.text}`);
        assert.match(answer.text, new RegExp(name));
        seen += 1;
      }
    }
  }
  assert.ok(seen > 50, "the table has the routes in it");
});

test("Torpor-Epoch is digits and nothing else, and nothing is done otherwise", async () => {
  await using api = await startFakeApi({ validator: trusting });
  const { id } = api.sandboxes.add().record;
  for (const text of noNumbers.filter((one) => one !== "٥")) {
    const headers = { "Torpor-Epoch": text };
    const answer = await api.call("DELETE", `/sandboxes/${id}`, { headers });
    // HTTP itself takes away the spaces around a value.
    assert.equal(answer.status, text.trim() === "5" ? 204 : 400, `"${text}": ${answer.text}`);
    if (answer.status === 204) api.sandboxes.add({ id });
  }
});
