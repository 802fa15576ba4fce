/** The module for users of the JavaScript SDK that reads output without a gap, across a pause. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { waitUntil } from "@torpor/testing";
import { Output, OutputError } from "../../examples/missed-output.ts";
import { withEachSdk } from "./published-clients.ts";

const counter = "n=0; until read -t 0.02 stop; do echo $((n += 1)); done; exit 7";

test("output beside the published SDKs", async (story) => {
  await withEachSdk(story, async (t, { Sandbox }) => {
    const sandbox = await Sandbox.create();

    await t.test("the output that a pause cut off is read to its end", async () => {
      const { pid } = await sandbox.commands.run(counter, {
        background: true,
        stdin: true,
        timeoutMs: 0,
      });
      const output = new Output(sandbox, pid);
      let seen = "";
      const read = async (): Promise<void> => {
        for await (const { stdout } of output.read()) seen += stdout.toString();
      };
      const cut = assert.rejects(read(), (error) => error instanceof OutputError);
      await waitUntil("it counts", async () => seen.includes("\n") || undefined);
      await sandbox.pause();
      await cut;
      await sandbox.connect();
      const { stdout: before } = output.offsets;
      const rest = read();
      await waitUntil("it counts on", async () => output.offsets.stdout > before || undefined);
      await sandbox.commands.sendStdin(pid, "stop\n");
      await rest;
      assert.equal(output.exitCode, 7);
      const count = seen.split("\n").length - 1;
      assert.equal(seen, Array.from({ length: count }, (_, index) => `${index + 1}\n`).join(""));
    });

    await sandbox.kill();
  });
});
