/**
 * The edge against nginx as a plain reverse proxy, in front of the same server and under the same
 * load, on the loopback: no guest takes part, so that only the proxy is measured.
 *
 * It needs `nginx` and `wrk`, which nothing else does; without them there are no rows.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Deadline, runCommand } from "@torpor/std";
import { addressed, startTestEdge, userPort } from "../packages/host/src/edge/fixtures.ts";
import { type Row, atLeast, atMost, median } from "./row.ts";

const rounds = 5;
const roundSeconds = 3;
const connections = 16;
const startMs = 500;
const bodyBytes = 1024;

interface Load {
  readonly perSecond: number;
  readonly medianMs: number;
}

/** Measures both proxies; no rows without nginx and wrk. */
export async function measureEdge(): Promise<readonly Row[]> {
  if (!(await isInstalled("nginx", "-v")) || !(await isInstalled("wrk", "-v"))) {
    process.stderr.write("edge: no rows without nginx and wrk (apt-get install nginx-light wrk)\n");
    return [];
  }
  await using undo = new AsyncDisposableStack();
  const [serverPort, proxyPort] = await startNginx(undo);
  const edge = undo.use(await startTestEdge());
  edge.lead(userPort, serverPort);
  const many: Record<"nginx" | "edge", number[]> = { nginx: [], edge: [] };
  const one: Record<"direct" | "nginx" | "edge", number[]> = { direct: [], nginx: [], edge: [] };
  // In turn, so that any other load of the machine affects all alike.
  for (let round = 0; round < rounds; round += 1) {
    many.nginx.push((await load(proxyPort, connections)).perSecond);
    many.edge.push((await load(edge.port, connections)).perSecond);
    one.direct.push((await load(serverPort, 1)).medianMs);
    one.nginx.push((await load(proxyPort, 1)).medianMs);
    one.edge.push((await load(edge.port, 1)).medianMs);
  }
  const [nginx, own] = [median(many.nginx), median(many.edge)];
  const directMs = median(one.direct);
  return [
    { row: "edge throughput", value: own, unit: "requests/s" },
    { row: "nginx throughput", value: nginx, unit: "requests/s" },
    atLeast("edge against nginx", own / nginx, "of its throughput", 0.5),
    atMost("edge adds to the median latency", median(one.edge) - directMs, "ms", 1),
    { row: "nginx adds to the median latency", value: median(one.nginx) - directMs, unit: "ms" },
  ];
}

async function isInstalled(...argv: [string, ...string[]]): Promise<boolean> {
  const deadline = Deadline.after(10_000, argv.join(" "));
  const [result] = await Promise.allSettled([runCommand(argv, deadline)]);
  return result.status === "fulfilled" || !String(result.reason).includes("not installed");
}

/**
 * Starts a server that always answers with the same bytes, and nginx with its defaults in front of
 * it.
 */
async function startNginx(undo: AsyncDisposableStack): Promise<[number, number]> {
  const folder = undo.adopt(await mkdtemp(join(tmpdir(), "torpor-bench-")), (path) =>
    rm(path, { recursive: true, force: true }),
  );
  const [serverPort, proxyPort] = [await freePort(), await freePort()];
  const temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
    .map((name) => `${name}_temp_path ${folder};`)
    .join(" ");
  const config = `
    daemon off; worker_processes 1; pid ${folder}/pid; error_log ${folder}/log;
    events { worker_connections 1024; }
    http {
      access_log off; keepalive_requests 1000000000; keepalive_timeout 60s 60s; ${temporary}
      server {
        listen 127.0.0.1:${serverPort};
        location / { return 200 "${"x".repeat(bodyBytes)}"; }
      }
      server {
        listen 127.0.0.1:${proxyPort};
        location / { proxy_pass http://127.0.0.1:${serverPort}; }
      }
    }`;
  const path = join(folder, "nginx.conf");
  await writeFile(path, config);
  const child = spawn("nginx", ["-c", path, "-p", folder, "-e", join(folder, "log")]);
  undo.defer(async () => {
    child.kill();
    await once(child, "exit");
  });
  await sleep(startMs);
  return [serverPort, proxyPort];
}

async function load(port: number, count: number): Promise<Load> {
  const headers = Object.entries(addressed()).flatMap(([name, value]) => [
    "-H",
    `${name}: ${value}`,
  ]);
  const { stdout } = await runCommand(
    [
      ...(["wrk", "-t1", `-c${count}`, `-d${roundSeconds}s`, "--latency"] as const),
      ...headers,
      `http://127.0.0.1:${port}/`,
    ],
    Deadline.after(60_000, "wrk"),
  );
  const [, latency = "", unit = ""] = /50%\s+([\d.]+)(us|ms|s)/.exec(stdout) ?? [];
  const [, perSecond = ""] = /Requests\/sec:\s+([\d.]+)/.exec(stdout) ?? [];
  if (/Non-2xx|Socket errors/.test(stdout) || perSecond === "") throw new Error(stdout);
  const msPer: Record<string, number> = { us: 0.001, ms: 1, s: 1000 };
  return { perSecond: Number(perSecond), medianMs: Number(latency) * (msPer[unit] ?? Number.NaN) };
}

async function freePort(): Promise<number> {
  await using server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}
