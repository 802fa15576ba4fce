import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import type { Socket } from "node:net";
import { test } from "node:test";
import { TorporError } from "@torpor/std";
import type { GuestAddressing } from "./guest-network.ts";
import { createNetwork, defaultNetworkKind } from "./open-network.ts";

/** The "guest" of these tests answers on the namespace's own loopback. */
const addressing: GuestAddressing = {
  guestAddress: "127.0.0.1",
  gatewayAddress: "169.254.0.22",
  guestPrefixBits: 30,
  guestMac: "02:54:4f:52:50:52",
  agentPort: 49_983,
};
const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root" };

async function get(network: { dial(port: number): Socket }): Promise<string> {
  const socket = network.dial(addressing.agentPort);
  socket.write("GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n");
  let text = "";
  for await (const chunk of socket) text += String(chunk);
  return text;
}

test("dial() reaches the network's own guest and no other's", asRoot, async (t) => {
  const networks = await Promise.all(
    ["first", "second"].map(async (name) => {
      const network = await createNetwork("namespace", addressing);
      assert.ok(network.attachment.kind === "tap");
      const script = `require("http").createServer((_, answer) => answer.end("${name}"))
        .listen(${addressing.agentPort}, "127.0.0.1", () => console.log("listening"))`;
      const guest = network.attachment.inNamespace(() =>
        spawn(process.execPath, ["-e", script], { stdio: ["ignore", "pipe", "inherit"] }),
      );
      t.after(() => guest.kill());
      await once(guest.stdout, "data");
      return network;
    }),
  );
  const answers = await Promise.all(networks.map(get));
  assert.match(answers[0] ?? "", /first$/);
  assert.match(answers[1] ?? "", /second$/);
  for (const network of networks) {
    network.attachment[Symbol.dispose]();
    network.attachment[Symbol.dispose](); // safe to repeat
    network[Symbol.dispose]();
    network[Symbol.dispose]();
  }
});

test("the user network forwards the agent's port and refuses every other", async () => {
  using network = await createNetwork("user", addressing);
  assert.ok(network.handle.kind === "user" && network.handle.hostPort > 0);
  assert.throws(
    () => network.dial(8080),
    (error) => TorporError.is(error) && error.code === "network.failed",
  );
});

test("defaultNetworkKind() needs root for namespaces", () => {
  assert.equal(defaultNetworkKind(), process.getuid?.() === 0 ? "namespace" : "user");
});
