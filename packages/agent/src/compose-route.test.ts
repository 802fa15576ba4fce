import assert from "node:assert/strict";
import { readFile, readdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { type TestAgent, startTestAgent } from "./fixtures.ts";

async function compose(
  agent: TestAgent,
  body: unknown,
  headers: Record<string, string> = {},
): Promise<Response> {
  return await fetch(`${agent.url}/files/compose`, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

test("Parts become one file in the order they are named, and are gone", async () => {
  await using agent = await startTestAgent();
  const [one, two] = [join(agent.folder, "one"), join(agent.folder, "two")];
  await writeFile(one, "first ");
  await writeFile(two, "second");
  const destination = join(agent.folder, "new", "whole");
  const answer = await compose(agent, { source_paths: [one, two], destination });
  assert.equal(answer.status, 200);
  assert.deepEqual(await answer.json(), { path: destination, name: "whole", type: "file" });
  assert.equal(await readFile(destination, "utf8"), "first second");
  assert.deepEqual((await readdir(agent.folder)).includes("one"), false);
  assert.deepEqual(await readdir(join(agent.folder, "new")), ["whole"]);
});

test("A part may be the destination, which grows then", async () => {
  await using agent = await startTestAgent();
  const [whole, more] = [join(agent.folder, "whole"), join(agent.folder, "more")];
  await writeFile(whole, "a");
  await writeFile(more, "b");
  assert.equal(
    (await compose(agent, { source_paths: [whole, more], destination: whole })).status,
    200,
  );
  assert.equal(await readFile(whole, "utf8"), "ab");
});

test("A call that fails leaves parts and destination as they were", async () => {
  await using agent = await startTestAgent();
  const [one, old] = [join(agent.folder, "one"), join(agent.folder, "old")];
  await writeFile(one, "first");
  await writeFile(old, "old");
  const status = async (body: unknown): Promise<number> => (await compose(agent, body)).status;
  const missing = { source_paths: [one, join(agent.folder, "none")], destination: old };
  assert.equal(await status(missing), 404);
  assert.equal(await status({ source_paths: [], destination: old }), 400);
  assert.equal(await status({ source_paths: [one, one], destination: old }), 400);
  assert.equal(await status({ source_paths: [one], destination: agent.folder }), 400);
  assert.equal(await status({ source_paths: [agent.folder], destination: old }), 400);
  assert.equal(await status({ source_paths: [one], destination: old, username: "none" }), 401);
  assert.equal(await status([]), 400);
  assert.equal(await readFile(one, "utf8"), "first");
  assert.equal(await readFile(old, "utf8"), "old");
});

test("Compose needs the token, and no signature will do", async () => {
  await using agent = await startTestAgent();
  await agent.init({ accessToken: "secret" });
  const one = join(agent.folder, "one");
  await writeFile(one, "first");
  const body = { source_paths: [one], destination: join(agent.folder, "whole") };
  assert.equal((await compose(agent, body)).status, 401);
  assert.equal((await compose(agent, body, { "X-Access-Token": "secret" })).status, 200);
});
