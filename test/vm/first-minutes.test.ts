/**
 * What an agent reaches for in the first minutes of a sandbox is there and works as on a developer's
 * own machine: tools, scratch space, packages without a flag. Nothing here needs the internet.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { startTestDaemon } from "@torpor/testing";

test("the first minutes", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();

  await t.test(
    "/tmp is on the disk, empty and everybody's; /run and /dev/shm are in memory",
    async () => {
      assert.equal(await sandbox.shell("stat -c %a:%U /tmp; ls -A /tmp"), "1777:root");
      const places = "stat -f -c %T /tmp /run /dev/shm /run/torpor";
      assert.equal(await sandbox.shell(places), "ext2/ext3\ntmpfs\ntmpfs\ntmpfs");
      await sandbox.shell("fallocate -l 1G /tmp/large && rm /tmp/large");
    },
  );
});
