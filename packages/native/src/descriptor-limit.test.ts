import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { test } from "node:test";

test("descriptorsMax() is the hard limit that the process was started with", () => {
  const program = `
    import { descriptorsMax } from "${import.meta.resolve("./descriptor-limit.ts")}";
    console.log(descriptorsMax())`;
  const node = [process.execPath, "--input-type=module", "-e", program];
  const script = 'ulimit -Sn 500; ulimit -Hn 3000; exec "$@"';
  const { stdout } = spawnSync("sh", ["-c", script, "sh", ...node]);
  assert.equal(String(stdout).trim(), "3000");
});
