import assert from "node:assert/strict";
import { mkdir, readFile, stat, writeFile } from "node:fs/promises";
import { request } from "node:http";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { type TestAgent, startTestAgent } from "./fixtures.ts";
import { mountMemory } from "./mount-fixtures.ts";
import { sign } from "./signature.ts";

const isRoot = process.geteuid?.() === 0;

function filesUrl(agent: TestAgent, query: Record<string, string>): string {
  return `${agent.url}/files?${new URLSearchParams(query).toString()}`;
}

/** Names a file part exactly, as `fetch` would not. */
async function put(
  agent: TestAgent,
  path: string,
  body: Uint8Array | string,
  headers: Record<string, string> = {},
): Promise<Response> {
  return await fetch(filesUrl(agent, { path }), {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", ...headers },
    body: typeof body === "string" ? body : Buffer.from(body),
  });
}

function form(files: Record<string, string | Uint8Array<ArrayBuffer>>): FormData {
  const data = new FormData();
  data.append("ignored", "field");
  for (const [name, content] of Object.entries(files)) {
    data.append("file", new Blob([content]), name);
  }
  return data;
}

test("A raw upload makes parents, replaces content, and comes down again", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "a", "b", "file.txt");
  const large = Buffer.alloc(3_000_000, "abc");
  const response = await put(agent, path, large);
  assert.equal(response.status, 200);
  assert.deepEqual(await response.json(), [{ path, name: "file.txt", type: "file" }]);
  assert.ok(large.equals(await readFile(path)));
  assert.equal((await put(agent, path, "short")).status, 200);
  const download = await fetch(filesUrl(agent, { path }));
  assert.equal(download.status, 200);
  assert.equal(download.headers.get("content-length"), "5");
  assert.equal(download.headers.get("content-type"), "text/plain; charset=utf-8");
  assert.equal(download.headers.get("content-disposition"), "inline; filename=file.txt");
  assert.equal(await download.text(), "short");
});

test("A multipart upload keeps folders in names and answers in order", async () => {
  await using agent = await startTestAgent();
  const first = join(agent.folder, "x", "one");
  const second = join(agent.folder, "y", "two ä");
  const content = Buffer.alloc(300_000, "\r\n--");
  const response = await fetch(`${agent.url}/files`, {
    method: "POST",
    body: form({ [first]: "1", [second]: content }),
  });
  assert.deepEqual(await response.json(), [
    { path: first, name: "one", type: "file" },
    { path: second, name: "two ä", type: "file" },
  ]);
  assert.equal(await readFile(first, "utf8"), "1");
  assert.ok(content.equals(await readFile(second)));
  const twice = await fetch(filesUrl(agent, { path: first }), {
    method: "POST",
    body: form({ a: "1", b: "2" }),
  });
  assert.equal(twice.status, 400);
  const single = await fetch(filesUrl(agent, { path: first }), {
    method: "POST",
    body: form({ other: "replaced" }),
  });
  assert.deepEqual(await single.json(), [{ path: first, name: "one", type: "file" }]);
  assert.equal(await readFile(first, "utf8"), "replaced");
});

test("A compressed upload is stored uncompressed; other encodings are refused", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "file");
  const gzip = { "Content-Encoding": "gzip" };
  assert.equal((await put(agent, path, gzipSync("plain"), gzip)).status, 200);
  assert.equal(await readFile(path, "utf8"), "plain");
  assert.equal((await put(agent, path, "not gzip", gzip)).status, 400);
  assert.equal((await put(agent, path, "x", { "Content-Encoding": "br" })).status, 400);
});

test("Files belong to the user of the request", { skip: !isRoot }, async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "folder", "file");
  await fetch(filesUrl(agent, { path, username: "daemon" }), {
    method: "POST",
    body: form({ name: "x" }),
  });
  const { entry } = await agent.files.stat({ path });
  assert.deepEqual([entry?.owner, entry?.group], ["daemon", "daemon"]);
  assert.equal((await stat(join(path, ".."))).uid, (await stat(path)).uid);
  const unknown = await fetch(filesUrl(agent, { path, username: "nobody-at-all" }));
  assert.equal(unknown.status, 401);
});

test("Metadata is stored with the file and replaced as a whole", async (t) => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "file");
  const response = await put(agent, path, "x", { "X-Metadata-Author": "me", "X-Metadata-B": "2" });
  if (response.status === 400) {
    t.skip("this file system has no user attributes");
    return;
  }
  const metadata = { author: "me", b: "2" };
  assert.deepEqual(await response.json(), [{ path, name: "file", type: "file", metadata }]);
  assert.deepEqual((await agent.files.stat({ path })).entry?.metadata, metadata);
  await put(agent, path, "x");
  assert.deepEqual((await agent.files.stat({ path })).entry?.metadata, {});
  const large = await put(agent, path, "x", { "X-Metadata-A": "v".repeat(4097) });
  assert.equal(large.status, 400);
});

test("Ranges and conditions are honoured", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "digits");
  await writeFile(path, "0123456789");
  const get = async (headers: Record<string, string>): Promise<Response> =>
    await fetch(filesUrl(agent, { path }), { headers });
  const part = await get({ Range: "bytes=2-4" });
  assert.equal(part.status, 206);
  assert.equal(part.headers.get("content-range"), "bytes 2-4/10");
  assert.equal(await part.text(), "234");
  assert.equal(await (await get({ Range: "bytes=-3" })).text(), "789");
  assert.equal(await (await get({ Range: "bytes=7-" })).text(), "789");
  const outside = await get({ Range: "bytes=10-" });
  assert.equal(outside.status, 416);
  assert.equal(outside.headers.get("content-range"), "bytes */10");
  const whole = await get({});
  const modified = whole.headers.get("last-modified") ?? "";
  assert.equal((await get({ "If-Modified-Since": modified })).status, 304);
  assert.equal((await get({ "If-Unmodified-Since": new Date(0).toUTCString() })).status, 412);
  assert.equal((await get({ Range: "bytes=0-0", "If-Range": modified })).status, 206);
  const stale = new Date(0).toUTCString();
  assert.equal((await get({ Range: "bytes=0-0", "If-Range": stale })).status, 200);
});

test("A download is compressed only for a client that will not have it otherwise", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "file");
  await writeFile(path, "hello");
  const get = async (encoding: string): Promise<Response> =>
    await fetch(filesUrl(agent, { path }), { headers: { "Accept-Encoding": encoding } });
  assert.equal((await get("gzip, deflate")).headers.get("content-encoding"), null);
  const gzip = await get("gzip, identity;q=0");
  assert.equal(gzip.headers.get("content-encoding"), "gzip");
  assert.equal(await gzip.text(), "hello");
  assert.equal((await get("br, *;q=0")).status, 406);
});

test("Wrong requests get the status of the wire", async () => {
  await using agent = await startTestAgent();
  const folder = join(agent.folder, "folder");
  const file = join(agent.folder, "file");
  await mkdir(folder);
  await writeFile(file, "");
  const status = async (query: Record<string, string>, init?: RequestInit): Promise<number> => {
    const response = await fetch(filesUrl(agent, query), init);
    if (response.status >= 400) {
      assert.equal(((await response.json()) as { code: number }).code, response.status);
    }
    return response.status;
  };
  assert.equal(await status({ path: join(folder, "no") }), 404);
  assert.equal(await status({ path: folder }), 400);
  assert.equal(await status({ path: "~other/x" }), 400);
  assert.equal(await status({ path: "/dev/zero" }), 400);
  assert.equal(await status({ path: file }), 200);
  assert.equal(await status({ path: file }, { method: "DELETE" }), 405);
  const raw = { "Content-Type": "application/octet-stream" };
  assert.equal(await status({}, { method: "POST", headers: raw, body: "x" }), 400);
  assert.equal(await status({ path: folder }, { method: "POST", headers: raw, body: "x" }), 400);
  const below = join(file, "x");
  assert.equal(await status({ path: below }, { method: "POST", headers: raw, body: "x" }), 400);
  const json = { "Content-Type": "application/json" };
  assert.equal(await status({ path: file }, { method: "POST", headers: json, body: "x" }), 400);
  const multipart = { "Content-Type": "multipart/form-data; boundary=b" };
  for (const body of ["", "--b\r\n", "--b\r\nContent-Disposition: form-data\r\n\r\nno end"]) {
    assert.equal(await status({ path: file }, { method: "POST", headers: multipart, body }), 400);
  }
  const proc = await fetch(filesUrl(agent, { path: "/proc/self/status" }));
  assert.match(await proc.text(), /^Name:/);
});

test("A full disk is 507", { skip: !isRoot }, async () => {
  await using agent = await startTestAgent();
  const folder = join(agent.folder, "disk");
  await mkdir(folder);
  using undo = new DisposableStack();
  undo.use(mountMemory(folder, 1 << 20));
  const response = await put(agent, join(folder, "file"), Buffer.alloc(2 << 20));
  assert.equal(response.status, 507);
});

test("Signed links open one file for one purpose until they expire", async () => {
  await using agent = await startTestAgent();
  const accessToken = "secret";
  await agent.init({ accessToken });
  const path = join(agent.folder, "signed");
  const status = async (query: Record<string, string>, init?: RequestInit): Promise<number> =>
    (await fetch(filesUrl(agent, query), init)).status;
  const write = sign(
    { path, operation: "write", username: "", expiration: undefined },
    accessToken,
  );
  const upload = { method: "POST", body: form({ any: "content" }) };
  assert.equal(await status({ path, signature: write }, upload), 200);
  assert.equal(await status({ path, signature: write }), 401);
  assert.equal(await status({ path }), 401);
  const withToken = (token: string): RequestInit => ({ headers: { "X-Access-Token": token } });
  assert.equal(await status({ path }, withToken("secret")), 200);
  assert.equal(await status({ path }, withToken("wrong")), 401);
  const read = (expiration: string): Record<string, string> => ({
    path,
    username: "root",
    signature: sign({ path, operation: "read", username: "root", expiration }, accessToken),
    signature_expiration: expiration,
  });
  const nowSeconds = Math.floor(Date.now() / 1000);
  assert.equal(await status(read(String(nowSeconds + 60))), 200);
  assert.equal(await status(read(String(nowSeconds - 5))), 401);
  assert.equal(await status({ ...read(String(nowSeconds + 60)), username: "daemon" }), 401);
});

test("A client that breaks off an upload leaves the agent serving", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "partial");
  const upload = request(filesUrl(agent, { path }), {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream", "Content-Length": 1000 },
  });
  upload.on("error", () => undefined);
  upload.write("some");
  while ((await stat(path).catch(() => undefined))?.size !== 4) await new Promise(setImmediate);
  upload.destroy();
  assert.equal((await fetch(`${agent.url}/health`)).status, 204);
});
