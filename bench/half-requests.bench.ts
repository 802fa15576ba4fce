/**
 * The cost of clients that begin requests and do not end them for those of another sandbox: the
 * latency of the latter with 3,000 half requests to one port of a sandbox, sent by a separate
 * process, against their latency without; and, shown separately, with refused requests sent again
 * each second. No guest takes part: two servers of this process stand for the sandboxes' ports.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { Agent, request as httpRequest } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";
import {
  type TestEdge,
  addressed,
  otherSandboxId,
  sandboxId,
  startTestEdge,
  userPort,
} from "../packages/host/src/edge/fixtures.ts";
import { type Row, atMost, median, quantile } from "./row.ts";
import { timed } from "./timing.ts";

const halfRequests = 3_000;
const rounds = 5;
const requestsPerRound = 2_000;
const settleMs = 2_000;
const bodyBytes = 1024;

/** Measures the latency without an attack and with each kind. */
export async function measureHalfRequests(): Promise<readonly Row[]> {
  await using edge = await startTestEdge();
  await edge.serve(userPort, (request, response) => {
    request.resume().once("end", () => response.end("x".repeat(bodyBytes)));
  });
  const quiet: number[] = [];
  const beside: number[] = [];
  const storm: number[] = [];
  await measureRound(edge); // warms up: the first requests compile code
  for (let round = 0; round < rounds; round += 1) {
    quiet.push(await measureRound(edge));
    for (const [times, comesAgain] of [
      [beside, false],
      [storm, true],
    ] as const) {
      const stop = await attack(edge.port, comesAgain);
      try {
        times.push(await measureRound(edge));
      } finally {
        await stop();
      }
    }
  }
  const [quietMs, besideMs, stormMs] = [median(quiet), median(beside), median(storm)];
  return [
    { row: "p99 of a sandbox, alone", value: quietMs, unit: "ms" },
    { row: "p99 of a sandbox beside 3000 half requests", value: besideMs, unit: "ms" },
    { row: "the same, the refused ones come again", value: stormMs, unit: "ms" },
    atMost("p99 beside half requests", besideMs / quietMs, "times p99", 2),
  ];
}

/** Measures one round. @returns the 99th percentile in ms */
async function measureRound({ port }: TestEdge): Promise<number> {
  using undo = new DisposableStack();
  const agent = undo.adopt(new Agent({ keepAlive: true }), (one) => one.destroy());
  const headers = addressed(userPort, otherSandboxId);
  const tookMs: number[] = [];
  for (let count = 0; count < requestsPerRound; count += 1) {
    tookMs.push(
      await timed(async () => {
        const sent = httpRequest({ port, host: "127.0.0.1", path: "/", headers, agent }).end();
        const [answer] = (await once(sent, "response")) as [NodeJS.ReadableStream];
        for await (const _ of answer);
      }),
    );
  }
  return quantile(tookMs, 0.99);
}

/** Starts the attacker. @returns a function that ends it */
async function attack(port: number, comesAgain: boolean): Promise<() => Promise<void>> {
  const names = Object.entries(addressed(userPort, sandboxId));
  const head = names.map(([name, value]) => `${name}: ${value}\r\n`).join("");
  const half = `POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n${head}\r\n`;
  const program = `
    const { connect } = require("node:net");
    const open = () => {
      const socket = connect(${port}, "127.0.0.1");
      socket.on("error", () => undefined).on("close", () => ${comesAgain} && setTimeout(open, 1000)).resume();
      socket.write(${JSON.stringify(half)});
    };
    for (let count = 0; count < ${halfRequests}; count += 1) open();
    setInterval(() => undefined, 1000);`;
  const child = spawn(process.execPath, ["-e", program], { stdio: "ignore" });
  await sleep(settleMs);
  return async () => {
    child.kill("SIGKILL");
    await once(child, "exit");
    await sleep(settleMs);
  };
}
