import assert from "node:assert/strict";
import { constants as osConstants } from "node:os";
import { lstat, mkdir, readFile, readdir, symlink, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { startTestAgent } from "./fixtures.ts";
import { mountMemory } from "./mount-fixtures.ts";
import { asConnectError, httpStatus, systemErrors } from "./system-errors.ts";

const needsRoot = { skip: process.geteuid?.() !== 0 };
/** Codes that E2B's clients turn into a rate limit, a timeout or a sandbox that is gone. */
const misleading = new Set([
  Code.ResourceExhausted,
  Code.Unavailable,
  Code.Canceled,
  Code.DeadlineExceeded,
]);
/** Names that the agent itself meets and that never reach a client. */
const met = new Set(["ECONNRESET", "EIO", "ENODATA", "EPIPE", "ESRCH"]);

function failed(code: string): Error {
  return Object.assign(new Error(`${code}: as the kernel says`), { code });
}

async function errorOf(work: Promise<unknown>): Promise<ConnectError> {
  return await work.then(
    () => assert.fail("it succeeded"),
    (cause: unknown) => ConnectError.from(cause),
  );
}

test("No failed system call is told as a rate limit or a timeout", () => {
  for (const name of Object.keys(osConstants.errno)) {
    const error = asConnectError(failed(name), "/a/path");
    assert.ok(!misleading.has(error.code), name);
    assert.match(error.rawMessage, /^\/a\/path: .*E[A-Z0-9]+/, name);
    const status = httpStatus(error);
    assert.ok(status >= 400 && status !== 429 && status !== 502 && status !== 504, name);
    assert.equal(name in systemErrors, status !== 500, name);
  }
});

test("Failed system calls have the codes and statuses of the wire", () => {
  const expected: Readonly<Record<string, readonly [Code, number]>> = {
    EACCES: [Code.PermissionDenied, 403],
    EAGAIN: [Code.Aborted, 503],
    EDQUOT: [Code.FailedPrecondition, 507],
    EEXIST: [Code.AlreadyExists, 409],
    EISDIR: [Code.InvalidArgument, 400],
    ELOOP: [Code.FailedPrecondition, 400],
    EMFILE: [Code.Aborted, 503],
    ENAMETOOLONG: [Code.InvalidArgument, 400],
    ENFILE: [Code.Aborted, 503],
    ENOENT: [Code.NotFound, 404],
    ENOMEM: [Code.Aborted, 503],
    ENOSPC: [Code.FailedPrecondition, 507],
    ENOTDIR: [Code.InvalidArgument, 400],
    ENOTEMPTY: [Code.FailedPrecondition, 409],
    EROFS: [Code.PermissionDenied, 403],
    EIO: [Code.Internal, 500],
  };
  for (const [name, [code, status]] of Object.entries(expected)) {
    const error = asConnectError(failed(name), "x");
    assert.deepEqual([error.code, httpStatus(error)], [code, status], name);
  }
});

test("Every name of an error that the agent's source knows is in the table", async () => {
  const folder = import.meta.dirname;
  for (const file of await readdir(folder)) {
    if (!file.endsWith(".ts") || file.endsWith(".test.ts")) continue;
    const source = await readFile(join(folder, file), "utf8");
    for (const [, name] of source.matchAll(/"(E[A-Z0-9]{2,})"/g)) {
      if (name === undefined || !(name in osConstants.errno) || met.has(name)) continue;
      assert.ok(name in systemErrors, `${name} of ${file}`);
    }
  }
});

test("A full disk is told as a full disk by every call that writes", needsRoot, async () => {
  await using agent = await startTestAgent();
  const { files, folder } = agent;
  const disk = join(folder, "disk");
  const outside = join(folder, "outside");
  await mkdir(disk);
  await writeFile(outside, Buffer.alloc(256 << 10));
  using undo = new DisposableStack();
  undo.use(mountMemory(disk, 64 << 10));
  const rest = join(disk, "rest");
  await writeFile(rest, Buffer.alloc(1 << 20)).catch(() => undefined);
  const small = join(folder, "small");
  await mkdir(small);
  undo.use(mountMemory(small, 64 << 10, 2));
  const calls: readonly (() => Promise<unknown>)[] = [
    () => files.makeDir({ path: join(small, "a", "b") }),
    () => files.move({ source: outside, destination: join(disk, "moved") }),
    () => files.move({ source: join(small, "a"), destination: join(small, "b", "c") }),
  ];
  for (const call of calls) {
    const error = await errorOf(call());
    assert.equal(error.code, Code.FailedPrecondition);
    assert.match(error.rawMessage, /no space left/);
  }
  assert.equal((await lstat(outside)).size, 256 << 10);
  const upload = async (path: string): Promise<number> => {
    const url = `${agent.url}/files?path=${encodeURIComponent(path)}`;
    const headers = { "Content-Type": "application/octet-stream" };
    return (await fetch(url, { method: "POST", headers, body: Buffer.alloc(256 << 10) })).status;
  };
  assert.equal(await upload(join(disk, "file")), 507);
  assert.equal(await upload(join(disk, "folder", "file")), 507);
  const compose = await fetch(`${agent.url}/files/compose`, {
    method: "POST",
    body: JSON.stringify({ source_paths: [outside], destination: join(disk, "whole") }),
  });
  assert.equal(compose.status, 507);
});

test("A write for which there is no room leaves the old content", needsRoot, async () => {
  await using agent = await startTestAgent();
  const disk = join(agent.folder, "disk");
  await mkdir(disk);
  using undo = new DisposableStack();
  undo.use(mountMemory(disk, 1 << 20));
  const path = join(disk, "file");
  const url = `${agent.url}/files?path=${encodeURIComponent(path)}`;
  const raw = { "Content-Type": "application/octet-stream" };
  const post = async (body: NonNullable<RequestInit["body"]>, headers = {}): Promise<number> => {
    const init = { method: "POST", headers, body, duplex: "half" } as RequestInit;
    return (await fetch(url, init)).status;
  };
  const form = (bytes: number): FormData => {
    const data = new FormData();
    data.append("file", new Blob([Buffer.alloc(bytes, 1)]), "name");
    return data;
  };
  const old = "old content";
  await writeFile(path, old);
  const before = await lstat(path);
  await writeFile(join(disk, "rest"), Buffer.alloc(1 << 20)).catch(() => undefined);
  for (const bytes of [8 << 10, 200 << 10, 2 << 20]) {
    assert.equal(await post(Buffer.alloc(bytes, 1), raw), 507);
    assert.equal(await post(form(bytes)), 507);
    assert.equal(await readFile(path, "utf8"), old, `${bytes} bytes`);
  }
  // The client announces no length.
  const stream = new Blob([Buffer.alloc(8 << 10, 1)]).stream();
  assert.equal(await post(stream, raw), 507);
  assert.equal(await readFile(path, "utf8"), old);

  assert.equal(await post("new", raw), 200);
  assert.equal(await readFile(path, "utf8"), "new");
  assert.equal((await lstat(path)).ino, before.ino);
  assert.deepEqual((await readdir(disk)).sort(), ["file", "rest"]);
  // The content it replaces makes room for it.
  const large = join(disk, "rest");
  const instead = `${agent.url}/files?path=${encodeURIComponent(large)}`;
  const bytes = Buffer.alloc(900 << 10, 2);
  assert.equal((await fetch(instead, { method: "POST", headers: raw, body: bytes })).status, 200);
  assert.ok(bytes.equals(await readFile(large)));
});

test("Circles of links and files in the place of folders are the client's fault", async () => {
  await using agent = await startTestAgent();
  const loop = join(agent.folder, "loop");
  const file = join(agent.folder, "file");
  await symlink("loop", loop);
  await writeFile(file, "");
  for (const path of [loop, join(loop, "x"), join(file, "x"), join(file, "x", "y")]) {
    const url = `${agent.url}/files?path=${encodeURIComponent(path)}`;
    const headers = { "Content-Type": "application/octet-stream" };
    assert.equal((await fetch(url)).status, 400, path);
    assert.equal((await fetch(url, { method: "POST", headers, body: "x" })).status, 400, path);
  }
});
