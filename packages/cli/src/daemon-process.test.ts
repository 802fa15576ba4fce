import assert from "node:assert/strict";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { stateFiles } from "@torpor/storage";
import { DaemonClient } from "./daemon-client.ts";
import { startDaemonProcess } from "./daemon-process.ts";

test("a daemon that cannot start says why", async (t) => {
  const stateFolder = await mkdtemp(join(tmpdir(), "torpor-start-"));
  t.after(() => rm(stateFolder, { recursive: true }));
  const client = new DaemonClient(join(stateFolder, stateFiles.socket));
  const cacheFolder = join(stateFolder, "cache");
  await assert.rejects(startDaemonProcess(client, { stateFolder, cacheFolder }), {
    code: "template.missing",
    effect: "none",
    rawMessage: /^the daemon ended at its start: /,
  });
});
