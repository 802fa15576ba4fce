import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { cp, mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { test } from "node:test";
import { bundleAgent, nativeFolders } from "./bundle.ts";

test("the bundle runs beside nothing but its native folders", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-bundle-"));
  const outFile = join(folder.path, "agent.mjs");
  await bundleAgent(outFile);
  for (const { from, to, files } of nativeFolders()) {
    for (const file of files) await cp(join(from, file), join(folder.path, to, file));
  }
  const child = spawn(process.execPath, ["--expose-gc", outFile], {
    cwd: "/",
    env: { TORPOR_AGENT_ADDRESS: "127.0.0.1", TORPOR_AGENT_PORT: "0" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  try {
    let port = 0;
    const lines: string[] = [];
    for await (const line of createInterface(child.stderr)) {
      lines.push(line);
      port = (JSON.parse(line) as { port?: number }).port ?? 0;
      if (port !== 0) break;
    }
    assert.ok(port > 0, lines.join("\n"));
    assert.equal((await fetch(`http://127.0.0.1:${port}/health`)).status, 204);
    const list = await fetch(`http://127.0.0.1:${port}/process.Process/List`, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: "{}",
    });
    assert.deepEqual(await list.json(), {});
  } finally {
    child.kill("SIGKILL");
    await exited;
  }
});
