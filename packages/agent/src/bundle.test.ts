import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { cp, mkdtempDisposable } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { type TestContext, test } from "node:test";
import { type Client, createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Process } from "@torpor/protocol";
import { bundleAgent, nativeFolders } from "./bundle.ts";
import { Events, asUser } from "./fixtures.ts";

interface RunningBundle {
  readonly pid: number;
  readonly url: string;
}

/** @param flags Options of its Node. */
async function runBundle(t: TestContext, ...flags: string[]): Promise<RunningBundle> {
  const folder = await mkdtempDisposable(join(tmpdir(), "torpor-bundle-"));
  t.after(() => folder[Symbol.asyncDispose]());
  const outFile = join(folder.path, "agent.mjs");
  await bundleAgent(outFile);
  for (const { from, to, files } of nativeFolders()) {
    for (const file of files) await cp(join(from, file), join(folder.path, to, file));
  }
  const child = spawn(process.execPath, ["--expose-gc", ...flags, outFile], {
    cwd: "/",
    env: { TORPOR_AGENT_ADDRESS: "127.0.0.1", TORPOR_AGENT_PORT: "0" },
    stdio: ["ignore", "ignore", "pipe"],
  });
  const exited = new Promise((resolve) => child.once("exit", resolve));
  t.after(async () => {
    child.kill("SIGKILL");
    await exited;
  });
  const lines: string[] = [];
  for await (const line of createInterface(child.stderr)) {
    lines.push(line);
    const { port = 0 } = JSON.parse(line) as { port?: number };
    if (port !== 0) return { pid: child.pid ?? 0, url: `http://127.0.0.1:${port}` };
  }
  throw new Error(lines.join("\n"));
}

test("the bundle runs beside nothing but its native folders", async (t) => {
  const { url } = await runBundle(t);
  assert.equal((await fetch(`${url}/health`)).status, 204);
  const list = await fetch(`${url}/process.Process/List`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: "{}",
  });
  assert.deepEqual(await list.json(), {});
});

test("output and input cost little more as JSON than as proto, without a compiler too", async (t) => {
  const { pid, url } = await runBundle(t, "--jitless", "--single-threaded");
  const cost = async (useBinaryFormat: boolean): Promise<number> => {
    const transport = createConnectTransport({ baseUrl: url, httpVersion: "1.1", useBinaryFormat });
    const client = createClient(Process, transport);
    const before = processorTicks(pid);
    await passBytes(client);
    return processorTicks(pid) - before;
  };
  await cost(true);
  const proto = await cost(true);
  const json = await cost(false);
  t.diagnostic(`processor time of the agent: ${proto} as proto, ${json} as JSON`);
  assert.ok(json < 6 * proto, `${json} against ${proto}`);
});

const outputBytes = 20_000_000;
const inputPieceBytes = 1 << 20;
const inputPieces = 8;

/** Pipes the output of one command into another. */
async function passBytes(client: Client<typeof Process>): Promise<void> {
  const me = asUser("root");
  const args = ["-c", `head -c ${outputBytes} /dev/zero | tr '\\0' x`];
  const output = new Events(client.start({ process: { cmd: "/bin/sh", args } }, me));
  await output.pid();
  assert.equal((await output.rest()).stdout.length, outputBytes);
  const counter = new Events(client.start({ process: { cmd: "wc", args: ["-c"] } }, me));
  const process = { selector: { case: "pid", value: await counter.pid() } } as const;
  const piece = new Uint8Array(inputPieceBytes);
  for (let sent = 0; sent < inputPieces; sent += 1) {
    await client.sendInput({ process, input: { input: { case: "stdin", value: piece } } });
  }
  await client.closeStdin({ process });
  assert.equal(Number((await counter.rest()).stdout), inputPieceBytes * inputPieces);
}

/**
 * The processor time of a process, its own and the kernel's on its behalf, in the kernel's
 * hundredths of a second.
 */
function processorTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.split(" ") ?? [];
  return Number(fields[11]) + Number(fields[12]);
}
