/**
 * No connection outlives a pause. Clients hold connections to the agent in every state: silent, half
 * a request sent, kept alive and idle, half-way through a second request, an answer streaming. The
 * sandbox sleeps and wakes; the guest's own `ss` then knows no connection whose other end is not
 * there, and the first request on a new one is answered. When a pause fails instead, whatever was in
 * flight goes on.
 */
import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import type { Socket } from "node:net";
import { test } from "node:test";
import { agentPort, gatewayAddress } from "@torpor/protocol";
import { Deadline } from "@torpor/std";
import {
  Failpoints,
  type GuestProcess,
  type TestDaemon,
  type TestSandbox,
  Witness,
  failsWith,
  startTestDaemon,
  waitUntil,
} from "@torpor/testing";

const health = "GET /health HTTP/1.1\r\nHost: guest\r\n\r\n";
const waitMs = 30_000;

function deadline(what: string): Deadline {
  return Deadline.after(waitMs, what);
}

/** A plain connection to the agent, as the edge would open it. */
async function dial(daemon: TestDaemon, sandbox: TestSandbox): Promise<Socket> {
  const socket = daemon.run(sandbox).link.dial(agentPort);
  await deadline("connecting").race(once(socket, "connect"));
  return socket;
}

/** The head of the next answer on a connection. */
async function readHead(socket: Socket): Promise<string> {
  let text = "";
  while (!text.includes("\r\n\r\n")) {
    const [chunk] = (await deadline("an answer").race(once(socket, "data"))) as [Buffer];
    text += chunk.toString("latin1");
  }
  return text;
}

async function whenClosed(socket: Socket): Promise<void> {
  if (socket.closed) return;
  await deadline("the connection to close").race(once(socket, "close"));
}

/**
 * A look at the connections that the guest's kernel knows, for `peersInGuest`. Started ahead: connections
 * that say nothing are closed after a while, and a slow guest may need longer than that to start a program.
 */
async function startLook(sandbox: TestSandbox): Promise<GuestProcess> {
  const line = `read _; ss -Htn sport = :${agentPort}; echo end; read _`;
  return await sandbox.start(["sh", "-c", line], { user: "root", stdin: true });
}

/** Host ports of the connections to the agent. */
async function peersInGuest(process: GuestProcess): Promise<readonly number[]> {
  await process.write("\n");
  const peers: number[] = [];
  for (;;) {
    const row = await process.readLine();
    if (row === "end") break;
    const peer = row.trim().split(/\s+/).at(-1) ?? "";
    assert.ok(peer.startsWith(gatewayAddress), row);
    peers.push(Number(peer.split(":").at(-1)));
  }
  await process.write("\n");
  await process.finish();
  return peers;
}

/** Ports of the host's ends, in the network namespace of this run of the VM (proc(5), net/tcp). */
async function portsOnHost(vmPid: number): Promise<ReadonlySet<number>> {
  const ports = new Set<number>();
  const table = await readFile(`/proc/${vmPid}/net/tcp`, "utf8");
  for (const row of table.split("\n").slice(1)) {
    const [, local = "", remote = ""] = row.trim().split(/\s+/);
    const isToAgent = Number.parseInt(remote.split(":")[1] ?? "", 16) === agentPort;
    if (isToAgent) ports.add(Number.parseInt(local.split(":")[1] ?? "", 16));
  }
  return ports;
}

const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root for namespaces" };

test("no connection outlives a pause", asRoot, async (t) => {
  const failpoints = new Failpoints();
  await using daemon = await startTestDaemon({ failpoint: failpoints.failpoint });
  const sandbox = await daemon.create();
  const witness = await Witness.start(sandbox);

  for (const cycle of [1, 2]) {
    await t.test(`cycle ${cycle}: none is left, and a new one is answered at once`, async () => {
      using stream = await sandbox.start(["sh", "-c", "while read line; do echo got $line; done"], {
        stdin: true,
      });
      await stream.write("one\n");
      assert.equal(await stream.readLine(), "got one");
      using lookBefore = await startLook(sandbox);
      const idle = await dial(daemon, sandbox);
      idle.write(health);
      assert.match(await readHead(idle), /^HTTP\/1\.1 204/);
      const second = await dial(daemon, sandbox);
      second.write(health);
      await readHead(second);
      second.write("GET /hea");
      const silent = await dial(daemon, sandbox);
      const half = await dial(daemon, sandbox);
      half.write("POST /process.Process/Start HTTP/1.1\r\nHost: gu");

      const before = await peersInGuest(lookBefore);
      const old = [silent, half, idle, second].map(({ localPort }) => localPort ?? 0);
      for (const port of old) assert.ok(before.includes(port), "the guest has accepted them all");

      await sandbox.pause();
      for (const socket of [silent, half, idle, second]) await whenClosed(socket);
      await assert.rejects(stream.finish(), "the stream was cut and does not hang");
      await assert.rejects(dial(daemon, sandbox), /is running/, "there is nothing to connect to");

      await sandbox.resume();
      const first = await dial(daemon, sandbox);
      first.write(health);
      assert.match(await readHead(first), /^HTTP\/1\.1 204/);

      const { vm, link, generation } = daemon.run(sandbox);
      using lookAfter = await startLook(sandbox);
      const hostBefore = await portsOnHost(vm.handle.pid);
      const inGuest = await peersInGuest(lookAfter);
      const hostAfter = await portsOnHost(vm.handle.pid);
      assert.ok(inGuest.includes(first.localPort ?? 0), "ss shows the new connection");
      const live = hostBefore.union(hostAfter);
      const orphans = inGuest.filter((port) => !live.has(port));
      // The one over which `ss` itself was asked came and went between the two looks at the host.
      assert.ok(orphans.length <= 1, `connections without another end: ${orphans.join(", ")}`);
      assert.deepEqual(
        orphans.filter((port) => before.includes(port)),
        [],
      );

      // The same generation again is answered as the first time, with nothing done.
      const { hostKey } = daemon.live(sandbox).record;
      const init = await link.init(
        {
          generation,
          reason: "resume",
          machine: null,
          suspendedMs: 0,
          hostKey,
          entropy: Buffer.alloc(64).toString("base64"),
          timestampMs: Date.now(),
          sandboxId: sandbox.id,
          templateId: daemon.live(sandbox).record.templateId,
          accessToken: sandbox.accessToken,
          envVars: null,
          defaultUser: "user",
          defaultWorkdir: null,
        },
        deadline("init"),
      );
      assert.ok(init.connectionsDestroyed > 0, "what was in flight had to be destroyed");
      await witness.confirm(sandbox);
    });
  }

  await t.test("a pause that fails leaves what is in flight alone", async () => {
    using stream = await sandbox.start(["sh", "-c", "while read line; do echo got $line; done"], {
      stdin: true,
    });
    await stream.write("before\n");
    assert.equal(await stream.readLine(), "got before");
    const { ticks } = await witness.confirm(sandbox);

    failpoints.failOnce("before", "save memory");
    await assert.rejects(sandbox.pause(), failsWith("internal", "none"));

    assert.equal((await sandbox.info()).state, "running");
    await stream.write("after\n");
    assert.equal(await stream.readLine(), "got after");
    await waitUntil("user processes run on", async () => {
      return (await witness.confirm(sandbox)).ticks > ticks || undefined;
    });
  });

  await t.test("connections are kept alive again after a pause that failed", async () => {
    const socket = await dial(daemon, sandbox);
    for (let count = 0; count < 2; count++) {
      socket.write(health);
      const head = await readHead(socket);
      assert.match(head, /^HTTP\/1\.1 204/);
      assert.doesNotMatch(head, /connection: close/i);
    }
    socket.destroy();
  });

  await t.test("and the next pause works", async () => {
    await sandbox.pause();
    await sandbox.resume();
    await witness.confirm(sandbox);
  });
});
