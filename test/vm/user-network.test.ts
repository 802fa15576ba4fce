/**
 * Where a guest can reach that may reach nothing. Without root the network is QEMU's own, closed to the
 * outside; as root it is a namespace, whose policy is closed here. In both, a guest that looks for a
 * listening host finds none, and in the second no other sandbox either. What the host asks of the guest
 * works in both.
 *
 * That a connection fails is shown from its other end too: the listener on the host, on every
 * address, hears of nobody.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readlink } from "node:fs/promises";
import { type AddressInfo, type Server, createServer } from "node:net";
import { networkInterfaces } from "node:os";
import { test } from "node:test";
import type { NetworkKind } from "@torpor/network";
import { gatewayAddress, guestAddress } from "@torpor/protocol";
import { TorporError } from "@torpor/std";
import { FakeInternet, TestSandbox, Witness, startTestDaemon } from "@torpor/testing";
import { underQemu } from "./qemu-only.ts";

/** An address on the internet; nothing is sent to it by a guest that is closed in. */
const outside = "1.1.1.1";
/** How long the guest waits for an answer that never comes. More would prove no more. */
const attemptSeconds = 2;

interface Listener extends AsyncDisposable {
  readonly port: number;
  readonly server: Server;
  heard: number;
}

async function listenEverywhere(): Promise<Listener> {
  const server = createServer().listen(0, "0.0.0.0");
  await once(server, "listening");
  const listener: Listener = {
    server,
    port: (server.address() as AddressInfo).port,
    heard: 0,
    [Symbol.asyncDispose]: async () => await server[Symbol.asyncDispose](),
  };
  server.on("connection", (socket) => {
    listener.heard += 1;
    socket.destroy();
  });
  return listener;
}

/** What becomes of connections from inside the guest, all tried at once. */
async function connectFrom(
  sandbox: TestSandbox,
  targets: readonly (readonly [address: string, port: number])[],
): Promise<readonly string[]> {
  const script = `
import json, socket, sys, threading
def attempt(index, address, port):
    try:
        socket.create_connection((address, port), timeout=${attemptSeconds}).close()
        results[index] = "connected"
    except OSError as error:
        results[index] = "failed"
targets = json.loads(sys.argv[1])
results = [""] * len(targets)
threads = [threading.Thread(target=attempt, args=(i, *t)) for i, t in enumerate(targets)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(json.dumps(results))`;
  const { stdout, stderr } = await sandbox.run(["python3", "-c", script, JSON.stringify(targets)]);
  assert.notEqual(stdout, "", stderr);
  return JSON.parse(stdout) as string[];
}

/** Every address at which this machine might be found. */
function hostAddresses(): readonly string[] {
  const own = Object.values(networkInterfaces()).flatMap((addresses) => addresses ?? []);
  return own.filter(({ family }) => family === "IPv4").map(({ address }) => address);
}

async function assertClosedIn(sandbox: TestSandbox): Promise<void> {
  await using listener = await listenEverywhere();
  const targets = [
    ...[gatewayAddress, ...hostAddresses()].map((address) => [address, listener.port] as const),
    [outside, 53] as const,
    [outside, 443] as const,
  ];
  const results = await connectFrom(sandbox, targets);
  assert.deepEqual(
    results,
    targets.map(() => "failed"),
  );
  assert.equal(listener.heard, 0, "nobody came to the host");
}

for (const networkKind of ["user", "namespace"] as const satisfies readonly NetworkKind[]) {
  const needsRoot = networkKind === "namespace" && process.getuid?.() !== 0;
  const skip = needsRoot ? "needs root" : networkKind === "user" && underQemu;

  test(`a sandbox on a ${networkKind} network works and reaches nothing`, { skip }, async (t) => {
    await using internet = new FakeInternet();
    await using daemon = await startTestDaemon({ networkKind, outside: internet });
    const sandbox = await daemon.create();
    await daemon.live(sandbox).setNetwork({ allowInternetAccess: false });

    await t.test("it runs commands, sleeps and wakes", async () => {
      assert.equal(await sandbox.shell("echo hello > note && cat note"), "hello");
      const { stdout } = await sandbox.run(["sh", "-c", "echo $$ > /tmp/pid; cat /tmp/pid"]);
      await sandbox.pause();
      await sandbox.resume();
      assert.equal(await sandbox.shell("cat note /tmp/pid"), `hello\n${stdout.trim()}`);
    });

    await t.test("it reaches neither the host nor the internet", async () => {
      await assertClosedIn(sandbox);
      assert.deepEqual(internet.asked, []);
    });

    await t.test("a daemon started anew reaches it again", async () => {
      await daemon.stop();
      await daemon.start();
      assert.equal(await sandbox.shell("cat note"), "hello");
    });

    if (networkKind === "user") {
      await t.test("internet access is refused, and the reason is told", async () => {
        const live = daemon.live(sandbox);
        const refused = await live.setNetwork({ allowInternetAccess: true }).then(
          () => undefined,
          (error: unknown) => error,
        );
        assert.ok(TorporError.is(refused) && refused.code === "network.unenforceable");
        assert.equal(live.record.network?.allowInternetAccess, false);
        assert.match(live.run?.network.noInternet ?? "", /root/);
      });
      return;
    }
    await t.test("two sandboxes do not reach each other", async () => {
      const other = await daemon.create();
      await daemon.live(sandbox).setNetwork(null);
      const namespaceOf = async (one: TestSandbox): Promise<string> =>
        await readlink(`/proc/${daemon.run(one).vm.handle.pid}/ns/net`);
      assert.notEqual(await namespaceOf(sandbox), await namespaceOf(other));
      assert.notEqual(await namespaceOf(sandbox), await readlink("/proc/self/ns/net"));

      await Witness.start(other);
      const { ticks } = await Witness.ask(other); // the host reaches its server
      assert.ok(ticks > 0);
      const targets = [guestAddress, gatewayAddress, "169.254.0.20", "169.254.0.23"].map(
        (address) => [address, 8000] as const,
      );
      assert.deepEqual(
        await connectFrom(sandbox, targets),
        targets.map(() => "failed"),
      );
    });
  });
}
