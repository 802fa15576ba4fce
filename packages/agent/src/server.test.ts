import assert from "node:assert/strict";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { Events, startTestAgent } from "./fixtures.ts";

test("health is open to all; other routes demand the token once there is one", async () => {
  await using agent = await startTestAgent();
  const status = async (path: string, token?: string): Promise<number> => {
    const headers: Record<string, string> = token === undefined ? {} : { "X-Access-Token": token };
    return (await fetch(`${agent.url}${path}`, { headers })).status;
  };
  assert.equal(await status("/envs"), 200);
  await agent.init({ accessToken: "secret" });
  assert.equal(await status("/health"), 204);
  for (const path of ["/envs", "/metrics", "/nothing"]) {
    assert.equal(await status(path), 401);
    assert.equal(await status(path, "wrong!"), 401);
  }
  assert.equal(await status("/envs", "secret"), 200);
  assert.equal(await status("/nothing", "secret"), 404);
  await assert.rejects(agent.process.list({}), { code: Code.Unauthenticated });
  await agent.process.list({}, { headers: { "X-Access-Token": "secret" } });
  const start = new Events(agent.process.start({ process: { cmd: "true" } })).pid();
  await assert.rejects(start, (error) => ConnectError.from(error).code === Code.Unauthenticated);
});

test("GET /envs and GET /metrics tell the environment and the machine", async () => {
  await using agent = await startTestAgent();
  await agent.init({ envVars: { A: "1" } });
  assert.deepEqual(await (await fetch(`${agent.url}/envs`)).json(), {
    E2B_SANDBOX: "true",
    E2B_SANDBOX_ID: "sandbox",
    E2B_TEMPLATE_ID: "template",
    A: "1",
  });
  const metrics = (await (await fetch(`${agent.url}/metrics`)).json()) as Record<string, number>;
  for (const name of ["ts", "cpu_count", "mem_total", "mem_used", "mem_total_mib", "disk_total"]) {
    assert.ok((metrics[name] ?? 0) > 0, name);
  }
});

test("browsers are told that they may call", async () => {
  await using agent = await startTestAgent();
  const response = await fetch(`${agent.url}/process.Process/List`, {
    method: "OPTIONS",
    headers: { Origin: "http://x", "Access-Control-Request-Headers": "x-access-token" },
  });
  assert.equal(response.status, 204);
  assert.equal(response.headers.get("access-control-allow-origin"), "*");
  assert.equal(response.headers.get("access-control-allow-headers"), "x-access-token");
  assert.equal(response.headers.get("access-control-max-age"), "7200");
});

test("bad RPC input is refused in the words of the wire", async () => {
  await using agent = await startTestAgent();
  const post = async (body: string, type = "application/json"): Promise<Response> =>
    await fetch(`${agent.url}/process.Process/SendSignal`, {
      method: "POST",
      headers: { "Content-Type": type },
      body,
    });
  const malformed = await post("{");
  assert.equal(malformed.status, 400);
  assert.equal(((await malformed.json()) as { code: string }).code, "invalid_argument");
  assert.equal((await post("{}", "text/plain")).status, 415);
  const missing = await post('{"process":{"pid":4000000},"signal":"SIGNAL_SIGKILL","new":1}');
  assert.equal(missing.status, 404);
  assert.equal(((await missing.json()) as { code: string }).code, "not_found");
  const timeout = agent.process.connect(
    { process: { selector: { case: "pid", value: 1 } } },
    { headers: { "Connect-Timeout-Ms": "soon" } },
  );
  await assert.rejects(timeout[Symbol.asyncIterator]().next());
});

test("a large JSON body is read and refused as a small one", async () => {
  await using agent = await startTestAgent();
  const counter = new Events(agent.process.start({ process: { cmd: "wc", args: ["-c"] } }));
  const pid = await counter.pid();
  const post = async (body: unknown, headers: Record<string, string> = {}): Promise<unknown> => {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const answer = await fetch(`${agent.url}/process.Process/SendInput`, {
      method: "POST",
      headers: { "Content-Type": "application/json", ...headers },
      body: text,
    });
    return [answer.status, ((await answer.json()) as { code?: string }).code];
  };
  for (const bytes of [3, 3 << 20]) {
    const stdin = Buffer.alloc(bytes, "x").toString("base64");
    const input = { process: { pid }, input: { stdin } };
    assert.deepEqual(await post(input), [200, undefined]);
    assert.deepEqual(await post({ ...input, input: { stdin, later: 1 }, more: {} }), [
      200,
      undefined,
    ]);
    const refused = [400, "invalid_argument"];
    assert.deepEqual(await post(`${JSON.stringify(input)}}`), refused);
    assert.deepEqual(await post({ ...input, input: { stdin: `${stdin}*` } }), refused);
    assert.deepEqual(await post({ process: { pid: stdin } }), refused);
    assert.deepEqual(await post([stdin]), refused);
    const packed = { "Content-Encoding": "gzip" };
    assert.deepEqual(await post(input, packed), [501, "unimplemented"]);
  }
  const stdin = Buffer.alloc(17 << 20).toString("base64");
  const tooLarge = { process: { pid }, input: { stdin } };
  assert.deepEqual(await post(tooLarge), [429, "resource_exhausted"]);
  await agent.process.closeStdin({ process: { selector: { case: "pid", value: pid } } });
  assert.equal(Number((await counter.rest()).stdout), 2 * (3 + (3 << 20)));
});
