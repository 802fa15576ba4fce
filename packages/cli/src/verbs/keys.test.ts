import assert from "node:assert/strict";
import { test } from "node:test";
import { FakeDaemon } from "../fixtures.ts";

test("a new key is printed with all that leads E2B's clients here", async () => {
  await using daemon = await FakeDaemon.start();
  const { stdout } = await daemon.run(["keys", "create", "agents"]);
  assert.equal(
    stdout,
    `export E2B_API_KEY=e2b_1234
export E2B_API_URL=http://127.0.0.1:7330
export E2B_SANDBOX_URL=http://127.0.0.1:7330
export E2B_DOMAIN=localhost:7330
`,
  );
});

test("a key that is made is shown, also when an interrupt comes", async () => {
  await using daemon = await FakeDaemon.start();
  daemon.answer = ({ method }) => {
    if (method === "POST") process.emit("SIGINT");
    return undefined;
  };
  const { exitCode, stdout } = await daemon.run(["keys", "create", "agents"]);
  assert.equal(exitCode, 130);
  assert.match(stdout, /^export E2B_API_KEY=e2b_1234$/m);
});

test("keys are removed by name or id, all or none", async () => {
  await using daemon = await FakeDaemon.start();
  for (const name of ["agents", "twice", "twice", "last"]) {
    await daemon.run(["keys", "create", name]);
  }
  const wrong = await daemon.run(["keys", "rm", "last", "agent"]);
  assert.equal(wrong.exitCode, 1);
  assert.match(wrong.stderr, /no API key is named agent\n {2}next: Did you mean agents\?/);
  const several = await daemon.run(["keys", "rm", "twice"]);
  assert.match(several.stderr, /several keys are named twice: key-2, key-3\n/);
  assert.equal(daemon.keys.length, 4);
  const removed = await daemon.run(["keys", "rm", "agents", "key-3"]);
  assert.deepEqual(removed, { exitCode: 0, stdout: "agents\ntwice\n", stderr: "" });
  assert.deepEqual(
    daemon.keys.map(({ id }) => id),
    ["key-2", "key-4"],
  );
  assert.deepEqual(JSON.parse((await daemon.run(["keys", "rm", "last", "--json"])).stdout), [
    "key-4",
  ]);
});
