/**
 * What two children of one fork must not share. A Node program that has registered its reseed runs in
 * the parent when it is forked; what it, the agent and the machine say in each sibling is all
 * different, and printed as a table.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import type { Socket } from "node:net";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { parseJson } from "@torpor/std";
import {
  type TestDaemon,
  type TestSandbox,
  Witness,
  assertRightClock,
  startTestDaemon,
  stillMs,
  waitUntil,
} from "@torpor/testing";

const siblingCount = 3;
const port = 8001;

const nodeProgram = `
import { randomBytes, randomInt, randomUUID } from "node:crypto";
import { createServer } from "node:http";
import { readSync, openSync } from "node:fs";
import { createServer as createTlsServer } from "node:tls";
import { checkRestored, onRestore } from "/usr/lib/torpor/restore.mjs";
const tls = createTlsServer();
tls.setTicketKeys(randomBytes(48));
onRestore(() => tls.setTicketKeys(randomBytes(48)));
randomUUID();
const urandom = openSync("/dev/urandom");
createServer((request, response) => {
  checkRestored();
  const kernel = Buffer.alloc(64);
  readSync(urandom, kernel);
  response.end(JSON.stringify({
    "/dev/urandom": kernel.toString("hex"),
    "randomUUID": randomUUID(),
    "randomBytes": randomBytes(64).toString("hex"),
    "randomInt": String(randomInt(2 ** 47)),
    "TLS ticket keys": tls.getTicketKeys().toString("hex"),
  }));
}).listen(${port}, () => console.log("ready"));
`;

/** Draws when it is told to, by a file, because its streams do not reach into a child. */
const pythonProgram = `
import os, random, ssl, time
import torpor_restore
random.random(), ssl.RAND_bytes(8)
print("ready", flush=True)
while not os.path.exists("/home/user/go"):
    time.sleep(0.01)
torpor_restore.check_restored()
drawn = "%x %s" % (random.getrandbits(256), ssl.RAND_bytes(32).hex())
open("/home/user/drawing", "w").write(drawn)
os.rename("/home/user/drawing", "/home/user/drawn")
`;

/** Waits for bytes that will never come. Its own output is cut by a pause, so it writes a file. */
const waitingProgram = `
import socket
server = socket.create_server(("0.0.0.0", 8002))
print("ready", flush=True)
client, _ = server.accept()
print("accepted", flush=True)
try:
    client.recv(1)
except OSError as error:
    open("/home/user/told", "w").write(type(error).__name__)
`;

const loopbackProgram = `
import socket
server = socket.create_server(("127.0.0.1", 9000))
one = socket.create_connection(("127.0.0.1", 9000))
other, _ = server.accept()
print("ready", flush=True)
server.accept()
other.sendall(b"over loopback")
open("/home/user/loopback", "wb").write(one.recv(64))
`;

type Traits = Readonly<Record<string, string>>;

async function traitsOf(daemon: TestDaemon, sandbox: TestSandbox): Promise<Traits> {
  const { text } = await sandbox.request(port, "GET", "/");
  const drawn = parseJson(text, "traits") as Traits;
  const line = "cat /proc/sys/kernel/random/boot_id /etc/machine-id; hostname; cat /etc/hostname";
  const [bootId = "", machineId = "", hostname = "", fileName] = (await sandbox.shell(line)).split(
    "\n",
  );
  assert.equal(hostname, fileName);
  return {
    ...drawn,
    "the agent's generators": daemon.run(sandbox).randomHash ?? "unknown",
    boot_id: bootId,
    "machine-id": machineId,
    hostname: hostname,
    "access token": sandbox.accessToken,
    "id in the environment": await sandbox.shell("echo $E2B_SANDBOX_ID"),
  };
}

/** A column for each sibling; what is long is cut. */
function table(siblings: readonly Traits[]): string {
  const names = Object.keys(siblings[0] ?? {});
  return names
    .map((name) =>
      [name.padEnd(24), ...siblings.map((one) => (one[name] ?? "").slice(0, 16))].join("  "),
    )
    .join("\n");
}

function assertAllDifferent(family: readonly Traits[]): void {
  for (const name of Object.keys(family[0] ?? {})) {
    const values = family.map((one) => one[name]);
    assert.equal(new Set(values).size, family.length, `${name}: ${values.join(" ")}`);
  }
}

async function startNode(sandbox: TestSandbox): Promise<void> {
  await sandbox.shell(`cat > program.mjs <<'END'\n${nodeProgram}\nEND`);
  using process = await sandbox.start(["node", "program.mjs"]);
  assert.equal(await process.readLine(), "ready");
}

async function whenClosed(socket: Socket): Promise<void> {
  if (!socket.closed) await once(socket, "close");
}

test("siblings", async (t) => {
  await using daemon = await startTestDaemon();
  const parent = await daemon.create();
  await startNode(parent);
  const witness = await Witness.start(parent);
  const { children, errors } = await parent.fork(siblingCount);
  assert.deepEqual(errors, []);

  await t.test("share no identity and no random numbers", async () => {
    const siblings = await Promise.all(children.map((child) => traitsOf(daemon, child)));
    t.diagnostic(`\n${table(siblings)}`);
    assertAllDifferent([...siblings, await traitsOf(daemon, parent)]);
    for (const [index, child] of children.entries()) {
      assert.equal(siblings[index]?.["hostname"], child.id);
    }
  });

  await t.test("have the right time", async () => {
    await parent.pause();
    await sleep(stillMs);
    const [late] = (await parent.fork()).children;
    assert.ok(late !== undefined);
    await parent.resume();
    for (const one of [late, parent, ...children]) await assertRightClock(one);
    await late.remove();
  });

  await t.test("a resume keeps the identity and renews the random numbers", async () => {
    const [child] = children;
    assert.ok(child !== undefined);
    const before = await traitsOf(daemon, child);
    await child.pause();
    await child.resume();
    const after = await traitsOf(daemon, child);
    for (const name of ["boot_id", "machine-id", "hostname", "access token"]) {
      assert.equal(after[name], before[name], name);
    }
    for (const name of ["/dev/urandom", "randomUUID", "randomBytes", "TLS ticket keys"]) {
      assert.notEqual(after[name], before[name], name);
    }
    await witness.confirm(child);
  });
  for (const child of children) await child.remove();

  await t.test("two children draw different numbers in Python too", async () => {
    using process = await parent.start(["python3", "-c", pythonProgram]);
    assert.equal(await process.readLine(), "ready");
    const forked = await parent.fork(2);
    const family = [parent, ...forked.children];
    for (const one of family) await one.shell("touch go");
    const drawn = await Promise.all(
      family.map((one) =>
        waitUntil(
          "Python has drawn",
          async () => (await one.shell("cat drawn || true")) || undefined,
        ),
      ),
    );
    for (const column of [0, 1]) {
      const values = drawn.map((line) => line.split(" ")[column]);
      assert.equal(new Set(values).size, family.length, values.join(" "));
    }
    for (const child of forked.children) await child.remove();
  });

  await t.test("connections of the parent go on, and those of a child are cut", async () => {
    const socket = daemon.run(parent).link.dial(8000);
    await once(socket, "connect");
    const established = "ss -Htn state established sport = :8000 | wc -l";
    assert.equal(await parent.shell(established), "1");
    const [child] = (await parent.fork()).children;
    assert.ok(child !== undefined);
    assert.equal(await child.shell(established), "0");
    assert.equal(await parent.shell(established), "1");
    socket.write("GET / HTTP/1.1\r\n\r\n");
    const [answer] = (await once(socket, "data")) as [Buffer];
    assert.match(answer.toString("latin1"), /^HTTP\/1\.1 200/);
    socket.destroy();
    await whenClosed(socket);
    await child.remove();
  });

  await t.test("whoever waits on a connection is told at once that it is gone", async () => {
    using process = await parent.start(["python3", "-c", waitingProgram]);
    assert.equal(await process.readLine(), "ready");
    const socket = daemon.run(parent).link.dial(8002);
    assert.equal(await process.readLine(), "accepted");
    await parent.pause();
    await whenClosed(socket);
    await parent.resume();
    await waitUntil("it was told", async () => {
      return (await parent.shell("cat told || true")) === "ConnectionAbortedError" || undefined;
    });
  });

  await t.test("connections over loopback live on", async () => {
    using process = await parent.start(["python3", "-c", loopbackProgram]);
    assert.equal(await process.readLine(), "ready");
    await parent.pause();
    await parent.resume();
    await parent.shell("bash -c '</dev/tcp/127.0.0.1/9000'");
    await waitUntil("the bytes have come through", async () => {
      return (await parent.shell("cat loopback || true")) === "over loopback" || undefined;
    });
    await witness.confirm(parent);
  });
});
