import assert from "node:assert/strict";
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { Code, ConnectError } from "@connectrpc/connect";
import { startTestAgent } from "./fixtures.ts";
import { uploadName } from "./upload-name.ts";

const js = "e2b-js-sdk/2.51.0 source/x";
const python = "e2b-python-sdk/2.63.0";
const browser = "Mozilla/5.0";

function nameOf(given: string, userAgent: string | undefined): string {
  try {
    return uploadName({ given }, userAgent);
  } catch (cause) {
    assert.equal(ConnectError.from(cause).code, Code.InvalidArgument);
    assert.match(ConnectError.from(cause).rawMessage, /by itself, with its path in the query/);
    return "refused";
  }
}

test("uploadName() undoes what the client is known for and refuses what it cannot tell", () => {
  const refused = "refused";
  const table: readonly (readonly [string, string, string, string])[] = [
    // What arrives; what it is from the JS SDK, the Python SDK and any other client.
    ["/t/plain ü", "/t/plain ü", "/t/plain ü", "/t/plain ü"],
    ["/t/a%20b%2F", "/t/a%20b%2F", "/t/a%20b%2F", "/t/a%20b%2F"],
    ["/t/a%22b", refused, refused, refused],
    ["/t/a%0Ab", refused, refused, refused],
    ["/t/a%0ab", "/t/a%0ab", "/t/a%0ab", refused],
    ["/t/a%0Db", refused, refused, refused],
    ["/t/a%09b", "/t/a%09b", refused, "/t/a%09b"],
    ["/t/a%1Fb", "/t/a%1Fb", refused, "/t/a%1Fb"],
    ["/t/a\\b", "/t/a\\b", refused, "/t/a\\b"],
    ["/t/a\\\\b", "/t/a\\\\b", "/t/a\\b", refused],
    ["/t/a\\\\\\b", "/t/a\\\\\\b", refused, refused],
    ["/t/a\\\\\\\\b", "/t/a\\\\\\\\b", "/t/a\\\\b", refused],
    ["/t/end\\", "/t/end\\", refused, refused],
    ["/t/end\\\\", "/t/end\\\\", "/t/end\\", refused],
  ];
  for (const [given, ...wanted] of table) {
    const got = [js, python, browser].map((userAgent) => nameOf(given, userAgent));
    assert.deepEqual(got, wanted, given);
    assert.equal(nameOf(given, undefined), wanted[2]);
  }
  assert.equal(uploadName({ decoded: 'a"%22\\' }, browser), 'a"%22\\');
});

test("Each of many files is written under its name, or none is written in its place", async () => {
  await using agent = await startTestAgent();
  const folder = join(agent.folder, "names");
  // E2B's JS SDK sends what Node's own form data is, with a name of its own.
  const post = async (names: readonly string[]): Promise<number> => {
    const form = new FormData();
    for (const name of names) form.append("file", new Blob([name]), join(folder, name));
    const headers = { "User-Agent": js };
    return (await fetch(`${agent.url}/files`, { method: "POST", headers, body: form })).status;
  };
  const names = ["a\\b", "a\\\\b", "end\\", "x; filename*=utf-8''y", "%20", "%0a", "ü"];
  assert.equal(await post(names), 200);
  assert.deepEqual((await readdir(folder)).sort(), names.toSorted());
  for (const name of ['a"b', "a%22b", "a\nb", "a%0Ab"]) {
    assert.equal(await post([name]), 400);
    const path = join(folder, name);
    const form = new FormData();
    form.append("file", new Blob([name]), path);
    const url = `${agent.url}/files?path=${encodeURIComponent(path)}`;
    assert.equal((await fetch(url, { method: "POST", body: form })).status, 200);
    assert.equal(await readFile(path, "utf8"), name);
  }
});
