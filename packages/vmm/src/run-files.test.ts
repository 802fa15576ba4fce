/** The folder of a VM's run, in which a VM that an attacker took over may have put anything. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdtempDisposable, rename, symlink, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { Deadline, systemCode } from "@torpor/std";
import { connectRunSocket } from "./run-files.ts";

test("a socket is reached by its own name only, and by no link to another's", async () => {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-run-"));
  const deadline = Deadline.after(10_000, "connecting");
  const own = join(folder.path, "qmp.sock");
  const others = join(folder.path, "other.sock");
  let connections = 0;
  await using server = createServer((socket) => {
    connections += 1;
    socket.end();
  });
  await once(server.listen(own), "listening");
  (await connectRunSocket(own, deadline)).destroy();

  await rename(own, others);
  await symlink(others, own);
  await assert.rejects(connectRunSocket(own, deadline), { code: "vmm.failed" });
  await writeFile(join(folder.path, "file"), "");
  await assert.rejects(connectRunSocket(join(folder.path, "file"), deadline), {
    code: "vmm.failed",
  });
  await assert.rejects(
    connectRunSocket(join(folder.path, "nothing"), deadline),
    (error) => systemCode(error) === "ENOENT",
  );
  (await connectRunSocket(others, deadline)).destroy();
  assert.ok(connections <= 2);
});
