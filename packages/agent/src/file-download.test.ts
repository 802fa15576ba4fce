import assert from "node:assert/strict";
import { once } from "node:events";
import { appendFile, mkdir, readFile, truncate, writeFile } from "node:fs/promises";
import { type IncomingMessage, get } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { type TestAgent, startTestAgent } from "./fixtures.ts";
import { sign } from "./signature.ts";

/** More bytes than sockets and buffers hold on the way. */
const largeBytes = 64 << 20;

function filesUrl(agent: TestAgent, query: Record<string, string>): string {
  return `${agent.url}/files?${new URLSearchParams(query).toString()}`;
}

async function fetchFile(
  agent: TestAgent,
  path: string,
  headers: Record<string, string> = {},
): Promise<Response> {
  return await fetch(filesUrl(agent, { path }), {
    headers,
    signal: AbortSignal.timeout(10_000),
  });
}

/** An answer whose head has been read, and nothing after it. */
async function beginDownload(
  url: string,
  headers: Record<string, string> = {},
): Promise<IncomingMessage> {
  const [response] = (await once(get(url, { headers }), "response")) as [IncomingMessage];
  return response;
}

async function readRest(response: IncomingMessage): Promise<number> {
  let bytes = 0;
  for await (const chunk of response) bytes += (chunk as Buffer).length;
  return bytes;
}

test("Files of the kernel come with the content they have, whatever size they claim", async () => {
  await using agent = await startTestAgent();
  const mtu = "/sys/class/net/lo/mtu";
  const content = await readFile(mtu, "utf8");
  const whole = await fetchFile(agent, mtu);
  assert.equal(whole.headers.get("content-length"), String(content.length));
  assert.equal(await whole.text(), content);
  const part = await fetchFile(agent, mtu, { Range: "bytes=1-4095" });
  assert.equal(part.status, 206);
  const last = content.length - 1;
  assert.equal(part.headers.get("content-range"), `bytes 1-${last}/${content.length}`);
  assert.equal(await part.text(), content.slice(1));
  const tail = await fetchFile(agent, mtu, { Range: "bytes=-2" });
  assert.equal(await tail.text(), content.slice(-2));
  const outside = await fetchFile(agent, mtu, { Range: "bytes=4000-" });
  assert.equal(outside.status, 416);
  assert.equal(outside.headers.get("content-range"), `bytes */${content.length}`);
  const gzip = await fetchFile(agent, mtu, { "Accept-Encoding": "gzip, identity;q=0" });
  assert.equal(await gzip.text(), content);

  const version = await readFile("/proc/version", "utf8");
  const small = await fetchFile(agent, "/proc/version");
  assert.equal(small.headers.get("content-length"), String(version.length));
  assert.equal(await small.text(), version);
  assert.equal(
    await (await fetchFile(agent, "/proc/version", { Range: "bytes=2-4" })).text(),
    version.slice(2, 5),
  );
});

test("A file that claims to be empty and is long comes whole, a part of it too", async (t) => {
  const path = "/proc/kallsyms";
  // Programs of the kernel's users are at its end, and come and go.
  const compared = 1 << 20;
  const content = await readFile(path, "latin1").catch(() => "");
  if (content.length < compared) {
    t.skip("this machine has no such file");
    return;
  }
  await using agent = await startTestAgent();
  for (const headers of [{}, { Range: "bytes=100-200" }]) {
    const response = await fetchFile(agent, path, headers);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get("content-length"), null);
    const text = await response.text();
    assert.ok(text.startsWith(content.slice(0, compared)));
  }
});

test("The connection breaks when a file is cut on its way, of ranges and signed links too", async () => {
  await using agent = await startTestAgent();
  const accessToken = "secret";
  await agent.init({ accessToken });
  const path = join(agent.folder, "log");
  const signature = sign(
    { path, operation: "read", username: "", expiration: undefined },
    accessToken,
  );
  const token = { "X-Access-Token": accessToken };
  const ways: readonly (readonly [Record<string, string>, Record<string, string>])[] = [
    [{ path }, token],
    [{ path }, { ...token, Range: `bytes=1000-${largeBytes - 1}` }],
    [{ path }, { ...token, "Accept-Encoding": "gzip, identity;q=0" }],
    [{ path, signature }, {}],
  ];
  // No pattern, so that it does not become small on its way.
  const content = Buffer.alloc(largeBytes);
  for (let at = 0; at < largeBytes; at += 4) content.writeInt32LE(Math.imul(at, 0x9e37_79b1), at);
  for (const [query, headers] of ways) {
    await writeFile(path, content);
    const response = await beginDownload(filesUrl(agent, query), headers);
    await truncate(path, 100);
    await assert.rejects(readRest(response), { code: "ECONNRESET" });
  }
});

test("A file that grows on its way comes as long as it was", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "log");
  await writeFile(path, Buffer.alloc(largeBytes, 1));
  const response = await beginDownload(filesUrl(agent, { path }));
  await appendFile(path, "more");
  assert.equal(await readRest(response), largeBytes);
  assert.equal(response.headers["content-length"], String(largeBytes));
});

test("Files of every size around that of one read come whole and in part", async () => {
  await using agent = await startTestAgent();
  const folder = join(agent.folder, "sizes");
  await mkdir(folder);
  const chunk = 256 << 10;
  for (const bytes of [0, 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 3 * chunk + 7]) {
    const path = join(folder, String(bytes));
    const content = Buffer.from(Array.from({ length: bytes }, (_, index) => (index * 7) % 251));
    await writeFile(path, content);
    const whole = await fetchFile(agent, path);
    assert.equal(whole.headers.get("content-length"), String(bytes));
    assert.ok(content.equals(Buffer.from(await whole.arrayBuffer())), `${bytes} bytes`);
    const head = await fetch(filesUrl(agent, { path }), { method: "HEAD" });
    assert.equal(head.headers.get("content-length"), String(bytes));
    const part = await fetchFile(agent, path, { Range: `bytes=${chunk - 5}-${chunk + 5}` });
    const expected = content.subarray(chunk - 5, chunk + 6);
    assert.equal(part.status, expected.length === 0 ? 416 : 206);
    const got = Buffer.from(await part.arrayBuffer());
    if (part.status === 206) assert.ok(expected.equals(got), `a part of ${bytes} bytes`);
  }
});
