/**
 * What a sandbox reaches of the internet: what its policy says, from its first instruction on, changed
 * while it runs, and the same after a sleep, in a fork, and under the next daemon. The internet is a few
 * servers on the loopback of the test.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { gatewayAddress } from "@torpor/protocol";
import { range } from "@torpor/network";
import {
  FakeInternet,
  type TestDaemon,
  TestSandbox,
  failsWith,
  startTestDaemon,
} from "@torpor/testing";

const host = "203.0.113.7";
const otherHost = "198.51.100.9";
const skip = process.getuid?.() === 0 ? false : "needs root";

/** Says "hello" to each target, and prints what came back or the name of the failure. */
const sayHello = `
import json, socket, sys
def say(address, port):
    try:
        with socket.create_connection((address, port), timeout=10) as line:
            line.sendall(b"hello")
            line.shutdown(socket.SHUT_WR)
            return line.makefile().read()
    except OSError as error:
        return type(error).__name__
print(json.dumps([say(*target) for target in json.loads(sys.argv[1])]))`;

type Target = readonly [address: string, port: number];

async function say(
  sandbox: TestSandbox,
  ...targets: readonly Target[]
): Promise<readonly string[]> {
  const { stdout, stderr } = await sandbox.run([
    "python3",
    "-c",
    sayHello,
    JSON.stringify(targets),
  ]);
  assert.notEqual(stdout, "", stderr);
  return JSON.parse(stdout) as string[];
}

async function openInternet(): Promise<FakeInternet> {
  const internet = new FakeInternet();
  for (const address of [host, otherHost]) {
    for (const port of [7, 80]) {
      await internet.addHost(address, port, (socket) => void socket.pipe(socket));
    }
  }
  internet.addName("echo.example", host);
  return internet;
}

async function create(daemon: TestDaemon, request: object): Promise<TestSandbox> {
  const { sandbox } = await daemon.sandboxes.create({
    template: "base",
    metadata: {},
    envVars: {},
    lifetime: {},
    ...request,
  });
  return await TestSandbox.find(daemon.api, sandbox.record.id);
}

test("a sandbox reaches what its policy allows", { skip }, async (t) => {
  await using internet = await openInternet();
  await using daemon = await startTestDaemon({ outside: internet });
  const sandbox = await daemon.create();

  await t.test("who asks for nothing reaches the internet, by address and by name", async () => {
    assert.deepEqual(await say(sandbox, [host, 7], ["echo.example", 7]), ["hello", "hello"]);
  });

  await t.test("a large transfer comes through whole, both ways", async () => {
    const script = `
import hashlib, os, socket, threading
line = socket.create_connection(("${host}", 7))
sent = os.urandom(16 << 20)
def send():
    line.sendall(sent)
    line.shutdown(socket.SHUT_WR)
threading.Thread(target=send).start()
back = hashlib.sha256()
while part := line.recv(1 << 16): back.update(part)
print(back.digest() == hashlib.sha256(sent).digest())`;
    assert.equal((await sandbox.run(["python3", "-c", script])).stdout, "True\n");
  });

  await t.test("private ranges, metadata and the host are refused, and at once", async () => {
    const targets = [gatewayAddress, "10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254"];
    const began = Date.now();
    const results = await say(sandbox, ...targets.map((one): Target => [one, 80]));
    assert.deepEqual(new Set(results), new Set(["ConnectionRefusedError"]));
    assert.ok(Date.now() - began < 8_000, "refused, not left waiting");
  });

  await t.test("UDP is answered with a refusal, so that clients of QUIC fall back", async () => {
    const script = `
import socket
line = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
line.settimeout(10)
line.connect(("${host}", 443))
line.send(b"initial")
try: line.recv(1)
except OSError as error: print(type(error).__name__)`;
    assert.equal((await sandbox.run(["python3", "-c", script])).stdout, "ConnectionRefusedError\n");
  });

  await t.test("a policy that changes counts at once", async () => {
    const live = daemon.live(sandbox);
    await live.setNetwork({ denyOut: [host] });
    const targets = [[host, 7] as const, [otherHost, 7] as const];
    assert.deepEqual(await say(sandbox, ...targets), ["ConnectionRefusedError", "hello"]);
    await live.setNetwork({ allowOut: [host], denyOut: ["0.0.0.0/0"] });
    assert.deepEqual(await say(sandbox, ...targets), ["hello", "ConnectionRefusedError"]);
  });

  await t.test("it is kept across a sleep, and forks have it too", async () => {
    const targets = [[host, 7] as const, [otherHost, 7] as const];
    const expected = ["hello", "ConnectionRefusedError"];
    await sandbox.pause();
    await sandbox.resume();
    assert.deepEqual(await say(sandbox, ...targets), expected);
    const { children } = await sandbox.fork();
    for (const child of children) {
      assert.deepEqual(await say(child, ...targets), expected);
      await child.remove();
    }
  });

  await t.test("a connection of before a sleep ends at once", async () => {
    const script = `
import socket
line = socket.create_connection(("${host}", 7))
line.sendall(b"a"); line.recv(1)
print("open", flush=True)
try:
    line.recv(1)
    outcome = "ended"
except OSError as error: outcome = type(error).__name__
open("/tmp/outcome", "w").write(outcome)`;
    using process = await sandbox.start(["python3", "-c", script]);
    assert.equal(await process.readLine(), "open");
    await sandbox.pause();
    await sandbox.resume();
    const wait = "for n in $(seq 100); do [ -s /tmp/outcome ] && break; sleep 0.1; done";
    assert.match(
      await sandbox.shell(`${wait}; cat /tmp/outcome`),
      /^Connection(?:Aborted|Reset)Error$/,
    );
    const [after] = await say(sandbox, [host, 7]);
    assert.equal(after, "hello", "new ones work");
  });

  await t.test("the next daemon takes the policy over", async () => {
    await daemon.stop();
    await daemon.start();
    assert.deepEqual(await say(sandbox, [host, 7], [otherHost, 7]), [
      "hello",
      "ConnectionRefusedError",
    ]);
  });

  await t.test("where names are allowed, they alone lead out", async () => {
    await daemon.live(sandbox).setNetwork({ allowOut: ["echo.example"], denyOut: ["0.0.0.0/0"] });
    internet.asked.length = 0;
    const request = (name: string, address: string): string => `
import socket
line = socket.create_connection(("${address}", 80), timeout=10)
line.sendall(b"GET / HTTP/1.1\\r\\nHost: ${name}\\r\\n\\r\\n")
try: print(line.recv(5).decode())
except OSError as error: print(type(error).__name__)`;
    const ask = async (name: string, address: string): Promise<string> =>
      (await sandbox.run(["python3", "-c", request(name, address)])).stdout.trim();
    assert.equal(await ask("echo.example", "echo.example"), "GET /");
    assert.equal(await ask("other.example", host), "ConnectionResetError");
    assert.deepEqual(await say(sandbox, ["other.example", 80], [host, 7]), [
      "gaierror",
      "ConnectionRefusedError",
    ]);
    assert.deepEqual(internet.asked, [{ address: host, port: 80 }]);
  });
});

test(
  "what no sandbox reaches is refused when it is asked for, and nothing is made or changed",
  { skip },
  async () => {
    await using internet = await openInternet();
    internet.near = [range("203.0.113.0/24")];
    await using daemon = await startTestDaemon({ outside: internet, networkKind: "namespace" });
    const wanted = ["127.0.0.1/32", "10.0.0.0/8", "169.254.169.254", host];
    for (const entry of wanted) {
      const network = { allowOut: [entry] };
      await assert.rejects(daemon.create("base", { network }), failsWith("argument.invalid"));
    }
    assert.deepEqual(daemon.sandboxes.all(), []);
    const sandbox = await daemon.create("base", { network: { allowOut: [otherHost] } });
    for (const entry of wanted) {
      const update = daemon.api.call("PUT", `/sandboxes/${sandbox.id}/network`, {
        allowOut: [entry],
      });
      await assert.rejects(update, failsWith("argument.invalid"));
    }
    assert.deepEqual(daemon.live(sandbox).record.network?.allowOut, [otherHost]);
    // What was agreed to is kept when the host's networks change, and leads nowhere.
    internet.near = [range("198.51.100.0/24")];
    await sandbox.pause();
    await sandbox.resume();
    assert.deepEqual(await say(sandbox, [otherHost, 7]), ["ConnectionResetError"]);
    await sandbox.remove();
  },
);

test("a sandbox is closed in from its first instruction on", { skip }, async () => {
  await using internet = await openInternet();
  await using daemon = await startTestDaemon({ outside: internet });
  const sandbox = await create(daemon, { network: { allowInternetAccess: false } });
  assert.deepEqual(await say(sandbox, [host, 7], ["echo.example", 7]), [
    "ConnectionRefusedError",
    "gaierror",
  ]);
  assert.deepEqual([internet.asked, internet.resolved], [[], []]);
});
