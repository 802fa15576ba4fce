/** The published Python SDK, sync and async, against a daemon with real VMs: see python/stories.py. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { startTestDaemon } from "@torpor/testing";
import { clientEnvironment } from "./published-clients.ts";
import {
  ensurePythonSdk,
  pythonClients,
  pythonStoryTitles,
  tellPythonStories,
} from "./python-client.ts";

test("stories by the published Python SDK", async (t) => {
  await ensurePythonSdk();
  await using daemon = await startTestDaemon();
  const environment = await clientEnvironment(daemon.api);
  for (const client of pythonClients) {
    await t.test(client, async (inner) => {
      const told: string[] = [];
      for await (const { title, error } of tellPythonStories(client, environment)) {
        told.push(title);
        await inner.test(title, () => assert.equal(error, undefined, error));
      }
      assert.deepEqual(told, await pythonStoryTitles(), "every story is told");
    });
  }
});
