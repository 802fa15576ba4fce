/** Parsers of what a guest, its VMM and its pager say. All of them may be in an attacker's hands. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { closeSync, openSync, truncateSync, writeSync } from "node:fs";
import { type Socket, createServer } from "node:net";
import { join } from "node:path";
import { parseSample } from "../../packages/guest/src/sample.ts";
import { type AnswerSink, AnswerParser } from "../../packages/host/src/edge/answer-parser.ts";
import { parseLogLine } from "../../packages/host/src/guest-log-line.ts";
import { parseInotify } from "../../packages/native/src/inotify.ts";
import { GuestRegions } from "../../packages/pager/src/guest-regions.ts";
import { readLastWords } from "../../packages/pager/src/last-words.ts";
import { parseStatus } from "../../packages/pager/src/pager-status.ts";
import {
  parseCancelResponse,
  parseInitRequest,
  parseInitResponse,
  parsePrepareRequest,
  parsePrepareResponse,
} from "../../packages/protocol/src/lifecycle.ts";
import { Deadline } from "../../packages/std/src/deadline.ts";
import { createOverlay } from "../../packages/storage/src/qcow2-overlay.ts";
import { Qcow2Reader } from "../../packages/storage/src/qcow2-reader.ts";
import { BlockGraph } from "../../packages/vmm/src/qemu/block-graph.ts";
import { QmpClient } from "../../packages/vmm/src/qemu/qmp.ts";
import type { Target } from "./fuzz.ts";
import { scratchFile, scratchFolder } from "./scratch.ts";
import { bytes, json, jsonText } from "./targets.ts";

const hooks = { run: 1, failed: 0 };

const fromAgent: readonly Target[] = [
  json(
    "protocol/src/lifecycle.ts parseInitRequest",
    [
      {
        reason: "create",
        machine: {
          hostname: "a-1",
          machineId: "0".repeat(32),
          bootId: "00000000-0000-0000-0000-000000000000",
        },
        suspendedMs: 0,
        generation: 1,
        entropy: Buffer.alloc(64).toString("base64"),
        timestampMs: 1,
        hostKey: "k",
        sandboxId: "i1",
        templateId: "t1",
        accessToken: "a",
        envVars: { A: "b" },
        defaultUser: "user",
        defaultWorkdir: "/home/user",
      },
    ],
    parseInitRequest,
  ),
  json(
    "protocol/src/lifecycle.ts parseInitResponse",
    [
      {
        generation: 1,
        randomHash: "x",
        clockStepMs: -5,
        connectionsDestroyed: 0,
        socketsDestroyed: 0,
        hooks,
      },
    ],
    parseInitResponse,
  ),
  json("protocol/src/lifecycle.ts parsePrepareRequest", [{ reason: "pause" }], parsePrepareRequest),
  json(
    "protocol/src/lifecycle.ts parsePrepareResponse",
    [
      {
        generation: 1,
        connectionsClosed: 0,
        connectionsRecorded: 1,
        processesFrozen: 2,
        hooks,
      },
    ],
    parsePrepareResponse,
  ),
  json("protocol/src/lifecycle.ts parseCancelResponse", [{ canceled: true }], parseCancelResponse),
  json(
    "guest/src/sample.ts parseSample",
    [
      {
        cpu_count: 1,
        cpu_used_pct: 0.5,
        mem_used: 1,
        mem_total: 2,
        mem_cache: 3,
        disk_used: 4,
        disk_total: 5,
      },
    ],
    (value) => parseSample(value, 0),
  ),
  jsonText(
    "host/src/guest-log-line.ts parseLogLine",
    [
      { time: "2026-01-01T00:00:00Z", level: "warn", message: "m", a: 1, b: { c: [] } },
      "\u001b[31mtorpor-init: failed\u001b[0m",
    ],
    (line) => {
      const entry = parseLogLine(line, 5, 10);
      if (entry === undefined) return;
      assert.ok(entry.atMs >= 5 && entry.atMs <= 10);
      assert.ok(Object.values(entry.fields).every((one) => typeof one === "string"));
    },
  ),
  bytes(
    "native/src/inotify.ts parseInotify",
    [Buffer.from([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 65, 66, 0, 0])],
    (input) => {
      const { events, rest } = parseInotify(input);
      const namesBytes = events.reduce((sum, { name }) => sum + name.length, 0);
      assert.ok(rest.length + 16 * events.length + namesBytes <= input.length);
    },
  ),
];

/** What an answer of a guest's server was read as. */
function answerOf(input: Buffer, chunks: readonly Buffer[]): string {
  const heard: string[] = [];
  let body = "";
  const sink: AnswerSink = {
    onInterim: ({ status }) => heard.push(`${status}`),
    onHead: ({ status, fields }) => heard.push(`${status} ${JSON.stringify(fields.pairs)}`),
    onBody: (part) => (body += part.toString("latin1")),
    onEnd: ({ pairs }) => heard.push(JSON.stringify(pairs)),
    onUpgrade: ({ status }) => heard.push(`upgrade ${status}`),
  };
  const parser = new AnswerParser("GET", sink);
  let taken = 0;
  try {
    for (const chunk of chunks) taken += parser.push(chunk);
    assert.ok(taken <= input.length);
    parser.finish();
  } catch (cause) {
    if (cause instanceof Error && cause.constructor.name !== "SyntaxFault") throw cause;
    return "refused";
  }
  return `${heard.join("|")} ${body} ${taken}`;
}

const fromServers: readonly Target[] = [
  bytes(
    "host/src/edge/answer-parser.ts AnswerParser",
    [
      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi",
      "HTTP/1.1 103 Early\r\n\r\nHTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nA: b\r\n\r\n",
      "HTTP/1.0 304 x\r\n\r\n",
      "HTTP/1.1 101 S\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\nraw",
    ],
    (input) => {
      const each = Array.from(input, (_, at) => input.subarray(at, at + 1));
      assert.equal(answerOf(input, each), answerOf(input, [input]));
    },
  ),
];

const region = { base_host_virt_addr: 2 ** 40, size: 1 << 21, offset: 0, page_size: 4096 };
const status = {
  state: "serving",
  pid: 1,
  vmPid: 2,
  memoryPages: 3,
  presentPages: 4,
  faults: 5,
  copiedPages: 6,
  zeroPages: 7,
  removedPages: 8,
  retries: 9,
  prefetchPhase: "off",
  prefetchedPages: 10,
  workingSetPages: 11,
  isRecording: false,
  recordedPages: -1,
  remark: "",
};

const fromPager: readonly Target[] = [
  jsonText("pager/src/guest-regions.ts GuestRegions", [[region]], (input) => {
    const regions = GuestRegions.parse(input, 1 << 21);
    assert.ok(regions.pageCount <= (1 << 21) / 4096);
    for (const address of [0, 2 ** 40, 2 ** 40 + 4096, 2 ** 47]) {
      const page = regions.pageAt(address);
      assert.ok(page === undefined || (page >= 0 && page < (1 << 21) / 4096));
    }
  }),
  jsonText("pager/src/pager-status.ts parseStatus", [status], parseStatus),
  jsonText(
    "pager/src/last-words.ts readLastWords",
    [{ ended: true }, { error: { error_code: "vmm.failed", message: "m", effect: "none" } }],
    async (words) => {
      scratchFile("pager.log", words);
      const end = await readLastWords(scratchFolder());
      assert.ok(end.kind === "vmEnded" || end.error.message !== "");
    },
  ),
];

/** Where `createOverlay` puts what a reader looks at, and how much of it an input says. */
const clusterBytes = 1 << 16;
const windows = [
  { at: 0, bytes: 112 },
  { at: clusterBytes, bytes: 16 },
  { at: 2 * clusterBytes, bytes: 16 },
  { at: 3 * clusterBytes, bytes: 16 },
  { at: 4 * clusterBytes, bytes: 64 },
] as const;
const diskBytes = 20 * clusterBytes;
const diskFileBytes = 6 * clusterBytes;

/** A layer with one cluster of data, as QEMU makes it: the L2 table at 4, the data at 5. */
function diskSeed(): Buffer {
  const seed = Buffer.alloc(windows.reduce((sum, { bytes: length }) => sum + length, 0));
  const header = [
    [0, 0x514649fb],
    [4, 3],
    [20, 16],
    [28, diskBytes],
    [36, 1],
    [44, 3 * clusterBytes],
    [52, clusterBytes],
    [56, 1],
    [96, 4],
    [100, 104],
  ] as const;
  for (const [at, value] of header) seed.writeUInt32BE(value, at);
  seed.writeUInt32BE(2 * clusterBytes, 112 + 4);
  for (let cluster = 0; cluster < 6; cluster += 1) seed.writeUInt16BE(1, 128 + 2 * cluster);
  seed.writeUInt32BE(0x80000000, 144);
  seed.writeUInt32BE(4 * clusterBytes, 148);
  seed.writeUInt32BE(0x80000000, 160);
  seed.writeUInt32BE(5 * clusterBytes, 164);
  seed.writeUInt32BE(1, 172);
  return seed;
}

let diskPath: string | undefined;

async function writeDisk(input: Buffer): Promise<string> {
  if (diskPath === undefined) {
    diskPath = join(scratchFolder(), "disk.qcow2");
    await createOverlay(diskPath, diskBytes);
    truncateSync(diskPath, diskFileBytes);
  }
  const fd = openSync(diskPath, "r+");
  let from = 0;
  for (const { at, bytes: length } of windows) {
    const part = Buffer.alloc(length);
    input.subarray(from, from + length).copy(part);
    writeSync(fd, part, 0, length, at);
    from += length;
  }
  closeSync(fd);
  return diskPath;
}

const fromDisk: readonly Target[] = [
  bytes("storage/src/qcow2-reader.ts Qcow2Reader", [diskSeed()], async (input) => {
    await using reader = await Qcow2Reader.open(await writeDisk(input), diskBytes);
    const states = await reader.readStates(0);
    for (const state of states ?? []) {
      assert.ok(state === 0 || state === 1 || (state % clusterBytes === 0 && state < 2 ** 56));
    }
  }),
];

const graph = {
  nodes: [
    { id: 1, type: "block-driver", name: "top" },
    { id: 2, type: "block-driver", name: "#block2" },
    { id: 3, type: "block-backend", name: "" },
  ],
  edges: [
    { parent: 1, child: 2, name: "backing" },
    { parent: 3, child: 1, name: "root" },
  ],
};

const fromQemu: readonly Target[] = [
  json("vmm/src/qemu/block-graph.ts BlockGraph", [graph], (value) => {
    const blocks = new BlockGraph(value);
    assert.ok(blocks.backingsOf("top").length <= 1_000_000);
    blocks.nodeOver("#block2");
    assert.ok(!blocks.unused.some((name) => name.startsWith("#")));
  }),
];

/** A QEMU that says what a test gives it before it answers a command; `@id` is the command's number. */
interface Monitor {
  readonly path: string;
  words: string;
  client: QmpClient | undefined;
}

let monitor: Promise<Monitor> | undefined;

async function startMonitor(): Promise<Monitor> {
  const started: Monitor = {
    path: join(scratchFolder(), "qmp.sock"),
    words: "",
    client: undefined,
  };
  const server = createServer((socket: Socket) => {
    socket.unref();
    socket.on("error", () => socket.destroy());
    socket.on("data", (command: Buffer) => {
      const id = /"id":(\d+)\}\n$/.exec(command.toString())?.[1] ?? "";
      const said = id === "1" ? '{"QMP":{}}' : started.words.replaceAll("@id", id);
      socket.write(`${said}\n{"return":{},"id":${id}}\n`);
    });
  });
  server.unref();
  server.listen(started.path);
  await once(server, "listening");
  return started;
}

const fromMonitor: readonly Target[] = [
  bytes(
    "vmm/src/qemu/qmp.ts QmpClient",
    [
      '{"return":{"a":1},"id":@id}',
      '{"error":{"class":"GenericError","desc":"no"},"id":@id}',
      '{"event":"STOP"}\r\n{"return":[],"id":@id}',
    ],
    async (input) => {
      const qemu = await (monitor ??= startMonitor());
      const deadline = Deadline.after(60_000, "asking");
      qemu.words = "";
      qemu.client ??= await QmpClient.connect(qemu.path, () => true, deadline);
      qemu.words = input.toString();
      try {
        await qemu.client.execute("query-status", {}, deadline);
      } catch (cause) {
        qemu.client.close();
        qemu.client = undefined;
        throw cause;
      }
    },
  ),
];

export const guestTargets: readonly Target[] = [
  ...fromAgent,
  ...fromServers,
  ...fromPager,
  ...fromDisk,
  ...fromQemu,
  ...fromMonitor,
];
