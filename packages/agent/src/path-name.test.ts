import assert from "node:assert/strict";
import { isUtf8 } from "node:buffer";
import { execFileSync } from "node:child_process";
import { mkdir, readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { EventType, FileType, type WatchDirResponse } from "@torpor/protocol";
import { startTestAgent } from "./fixtures.ts";
import { decodePercents, toDiskPath, toWireText } from "./path-name.ts";

const bytesOf = (path: string): Buffer => Buffer.from(toDiskPath(path));

test("toWireText() keeps every name apart, as valid UTF-8 that gives its bytes back", () => {
  const pieces = [
    [0x61],
    [0x80],
    [0xff],
    [0xc3],
    [0xc3, 0xa4],
    [0xed, 0xa0, 0x80],
    [0xf4, 0x8f, 0xba, 0x80],
    [0xf4, 0x8f, 0xbb, 0xbf],
    [0xf4, 0x90],
    [0xef, 0xbf, 0xbd],
    [0xf0, 0x9f, 0x98, 0x80],
    [0xe2, 0x82],
  ];
  const seen = new Map<string, string>();
  const check = (bytes: Buffer): void => {
    const text = toWireText(bytes);
    assert.ok(text.isWellFormed());
    assert.ok(bytesOf(text).equals(bytes), bytes.toString("hex"));
    if (!isUtf8(bytes)) assert.ok(!text.includes("\uFFFD") || bytes.includes(0xef));
    assert.equal(seen.get(text) ?? bytes.toString("hex"), bytes.toString("hex"));
    seen.set(text, bytes.toString("hex"));
  };
  for (const a of pieces) {
    for (const b of pieces) for (const c of pieces) check(Buffer.from([...a, ...b, ...c]));
  }
  let state = 1;
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = Buffer.alloc(1 + (round % 9));
    for (let at = 0; at < bytes.length; at += 1) {
      state = (Math.imul(state, 1_103_515_245) + 12_345) >>> 0;
      bytes[at] = 1 + ((state >>> 16) % 255);
    }
    check(bytes);
  }
});

test("toWireText() leaves names of valid UTF-8 as they are", () => {
  for (const name of ["plain", "zwölf", "\uFFFD", "😀", "\u{10FFFF}", "\u{10FC00}", "a\\xff%FF"]) {
    assert.equal(toWireText(Buffer.from(name)), name);
    assert.equal(toDiskPath(name).toString(), name);
  }
  assert.equal(toWireText(Buffer.from([0x61, 0xff])), "a\u{10FEFF}");
  assert.equal(decodePercents("a%2f%ff+b"), "a/\u{10FEFF} b");
});

test("Files whose names are no UTF-8 are listed by names that every call takes", async () => {
  await using agent = await startTestAgent();
  const { files, folder } = agent;
  const script = `cd "$1" && mkdir "$(printf 'd\\377')" && echo -n in >"$(printf 'd\\377/f\\201')"`;
  execFileSync("sh", ["-c", script, "sh", folder]);
  const path = join(folder, "d\u{10FEFF}");
  const inside = join(path, "f\u{10FE81}");
  const { entries } = await files.listDir({ path: folder, depth: 2 });
  assert.deepEqual(
    entries.filter(({ name }) => !name.startsWith(".")).map((entry) => entry.path),
    [path, inside],
  );
  assert.equal((await files.stat({ path })).entry?.type, FileType.DIRECTORY);
  assert.equal((await files.stat({ path: inside })).entry?.size, 2n);

  const url = (at: string): string => `${agent.url}/files?path=${encodeURIComponent(at)}`;
  const download = await fetch(url(inside));
  assert.equal(await download.text(), "in");
  const raw = await fetch(`${agent.url}/files?path=${encodeURIComponent(folder)}/d%FF/f%81`);
  assert.equal(await raw.text(), "in");
  const written = join(path, "new\u{10FEFE}");
  const upload = await fetch(url(written), {
    method: "POST",
    headers: { "Content-Type": "application/octet-stream" },
    body: "up",
  });
  assert.deepEqual(await upload.json(), [{ path: written, name: "new\u{10FEFE}", type: "file" }]);
  assert.equal(await readFile(bytesOf(written), "utf8"), "up");
  const multipart = Buffer.concat([
    Buffer.from(`--b\r\nContent-Disposition: form-data; name="file"; filename="${folder}/m`),
    Buffer.of(0xfd),
    Buffer.from('"\r\n\r\nparts\r\n--b--'),
  ]);
  const form = await fetch(`${agent.url}/files`, {
    method: "POST",
    headers: { "Content-Type": "multipart/form-data; boundary=b" },
    body: multipart,
  });
  assert.equal(form.status, 200);
  assert.equal(await readFile(bytesOf(join(folder, "m\u{10FEFD}")), "utf8"), "parts");

  const moved = join(folder, "moved\u{10FEFC}");
  await files.move({ source: path, destination: moved });
  await files.makeDir({ path: join(moved, "sub\u{10FEFB}") });
  assert.equal((await readdir(bytesOf(moved), { encoding: "buffer" })).length, 3);
  await files.remove({ path: moved });
  await files.remove({ path: join(folder, "m\u{10FEFD}") });
  const left = (await readdir(folder)).filter((name) => !name.startsWith("."));
  assert.deepEqual(left, []);
});

test("A folder whose name is no UTF-8 is removed with its parent", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "parent");
  await mkdir(path);
  const script = `cd "$1" && mkdir "$(printf '\\377')" && : >"$(printf '\\377/\\376')"`;
  execFileSync("sh", ["-c", script, "sh", path]);
  await agent.files.remove({ path });
  const gone = await agent.files.stat({ path }).catch((cause: unknown) => ConnectError.from(cause));
  assert.ok(gone instanceof ConnectError && gone.code === Code.NotFound);
});

test("What happens in folders whose names are no UTF-8 is told", async () => {
  await using agent = await startTestAgent();
  const path = join(agent.folder, "watched");
  await mkdir(join(path), { recursive: true });
  await mkdir(bytesOf(join(path, "before\u{10FEFF}")));
  const stream = agent.files.watchDir({ path, recursive: true, includeEntry: true });
  const events = stream[Symbol.asyncIterator]() as AsyncIterator<WatchDirResponse, undefined>;
  assert.equal((await events.next()).value?.event.case, "start");
  const until = async (type: EventType, name: string): Promise<string | undefined> => {
    for (;;) {
      const { value } = await events.next();
      assert.equal(value?.event.case, "filesystem");
      const { value: event } = value.event;
      if (event.type === type && event.name === name) return event.entry?.path;
    }
  };
  await writeFile(bytesOf(join(path, "before\u{10FEFF}", "x\u{10FE80}")), "1");
  const name = "before\u{10FEFF}/x\u{10FE80}";
  assert.equal(await until(EventType.WRITE, name), join(path, name));
  await mkdir(bytesOf(join(path, "later\u{10FEFE}")));
  await until(EventType.CREATE, "later\u{10FEFE}");
  await writeFile(bytesOf(join(path, "later\u{10FEFE}", "y")), "1");
  await until(EventType.CREATE, "later\u{10FEFE}/y");
  await events.return?.();
});

test("A path with half a character is refused", async () => {
  await using agent = await startTestAgent();
  const response = await fetch(`${agent.url}/filesystem.Filesystem/MakeDir`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ path: join(agent.folder, "x\uD800") }),
  });
  assert.equal(response.status, 400);
  const compose = await fetch(`${agent.url}/files/compose`, {
    method: "POST",
    body: JSON.stringify({ source_paths: ["a"], destination: "x\uD800" }),
  });
  assert.equal(compose.status, 400);
});
