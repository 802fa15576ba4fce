/**
 * A guest whose root has put a program of its own in the agent's place. Whatever it answers, calls of
 * the host and of clients end in an error, and the sandbox can still be removed.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { agentPort } from "@torpor/protocol";
import { TorporError } from "@torpor/std";
import { startTestDaemon, waitUntil } from "@torpor/testing";

/** Answers every connection with a change of protocols, which no HTTP client of ours has asked for. */
const impostor = `
import socket, subprocess, time
subprocess.run("kill -STOP 1; pkill -9 -f agent.mjs", shell=True)
server = socket.socket(); server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
while True:
    try: server.bind(("0.0.0.0", ${agentPort})); break
    except OSError: time.sleep(0.05)
server.listen()
while True:
    line, _ = server.accept()
    line.recv(65536)
    line.sendall(b"HTTP/1.1 101 X\\r\\nConnection: Upgrade\\r\\nUpgrade: x\\r\\n\\r\\n")
`;

test("a guest that takes the agent's place holds nobody up", async () => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  await sandbox.shell(
    `cat > /tmp/impostor.py <<'END'${impostor}END\nsetsid python3 /tmp/impostor.py >/dev/null 2>&1 &`,
    { user: "root" },
  );
  await waitUntil("the impostor answers", async () => {
    const { status } = await sandbox.request(agentPort, "GET", "/health");
    return status === 502 ? true : undefined;
  });
  await assert.rejects(sandbox.pause(), (error) => {
    assert.ok(TorporError.is(error), String(error));
    return error.message.includes("prepare");
  });
  assert.equal((await sandbox.info()).state, "running");
  await sandbox.remove();
});
