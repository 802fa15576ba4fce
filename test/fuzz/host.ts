/** Parsers of files, of what other programs print, and of the command line. */
import assert from "node:assert/strict";
import { Accounts } from "../../packages/agent/src/accounts.ts";
import { withOwnName } from "../../packages/agent/src/machine-identity.ts";
import {
  parseAccess,
  parseApiKey,
  parseDaemon,
  parseForkResult,
  parseList,
  parseSandbox,
  parseSnapshot,
} from "../../packages/cli/src/daemon-answers.ts";
import { errorFromLog, shownLogLine } from "../../packages/cli/src/daemon-log.ts";
import { parseDuration, toMs } from "../../packages/cli/src/duration.ts";
import { parseServerTiming, timingRows } from "../../packages/cli/src/server-timing.ts";
import { findSandbox } from "../../packages/cli/src/sandbox-id.ts";
import { parseCommandWords, parseEnv, parsePairs } from "../../packages/cli/src/usage.ts";
import { decodeWorkingSet, encodeWorkingSet } from "../../packages/pager/src/working-set.ts";
import { readOptions } from "../../packages/pager/src/pager-options.ts";
import {
  parseAptStatus,
  parseAptTargets,
  parseInheritedOptions,
  parseOsRelease,
} from "../../packages/setup/src/apt.ts";
import { parseInstalledPackages } from "../../packages/setup/src/debian-packages.ts";
import { parseMemoryAvailable } from "../../packages/setup/src/doctor.ts";
import { parseKernelDependency } from "../../packages/setup/src/kernel.ts";
import { findCompressedKernel } from "../../packages/setup/src/vmlinux.ts";
import { parseLdd } from "../../packages/setup/src/vmm-copy.ts";
import { verifyChecksums } from "../../packages/storage/src/checksums.ts";
import { parseChunkDigest } from "../../packages/storage/src/chunk-digest.ts";
import { readSnapshotManifest, readTemplateManifest } from "../../packages/storage/src/manifest.ts";
import { decodePageMap, encodePageMap } from "../../packages/storage/src/page-map.ts";
import { checkSettings } from "../../packages/storage/src/settings.ts";
import { formatRelease, parseRelease } from "../../packages/vmm/src/firecracker/version.ts";
import { readDescription } from "../../packages/vmm/src/qemu/copy-files.ts";
import { readState } from "../../packages/vmm/src/firecracker/whole-state.ts";
import type { Target } from "./fuzz.ts";
import { scratchFile, scratchFolder } from "./scratch.ts";
import { bytes, json, jsonText, stringsOf, text } from "./targets.ts";

const memoryBytes = 1 << 24;
const pageMap = encodePageMap([
  { firstPage: 0, pageCount: 3, state: 2 },
  { firstPage: 5, pageCount: 1, state: 1 },
]);
const workingSet = encodeWorkingSet({
  sizeBytes: memoryBytes,
  ranges: [{ firstPage: 1, endPage: 4 }],
});

const files: readonly Target[] = [
  json(
    "storage/src/chunk-digest.ts parseChunkDigest",
    [{ bytes: 4, chunkBytes: 2, chunkSha256: ["a", "b"] }],
    (value) => parseChunkDigest(value, "it"),
  ),
  bytes("storage/src/page-map.ts decodePageMap", [pageMap], (input) => {
    const runs = decodePageMap(input, memoryBytes, "map");
    const last = runs.at(-1);
    if (last !== undefined) assert.ok((last.firstPage + last.pageCount) * 4096 <= memoryBytes);
  }),
  bytes("pager/src/working-set.ts decodeWorkingSet", [workingSet], (input) => {
    const { ranges } = decodeWorkingSet(input, memoryBytes, "set");
    for (const { firstPage, endPage } of ranges) assert.ok(firstPage < endPage);
  }),
  ...[readTemplateManifest, readSnapshotManifest].map((read) =>
    jsonText(
      `storage/src/manifest.ts ${read.name}`,
      [{ digest: "x", manifest: { format: "torpor-snapshot-3", a: {} } }],
      async (input) => {
        scratchFile("manifest.json", input);
        await read(scratchFolder());
      },
    ),
  ),
  jsonText(
    "storage/src/checksums.ts verifyChecksums",
    [
      { "some.file": { bytes: 4, chunkBytes: 2, chunkSha256: ["a", "b"] } },
      { missing: { bytes: 0, chunkBytes: 1, chunkSha256: [] } },
    ],
    async (input) => {
      scratchFile("some.file", "data");
      scratchFile("checksums.json", input);
      await verifyChecksums(scratchFolder());
    },
  ),
  jsonText(
    "pager/src/pager-options.ts readOptions",
    [
      {
        runFolder: "/r",
        vmSocketPath: "/s",
        connectBudgetMs: 1,
        memory: { imagePath: "/i", layers: [], sizeBytes: 1 },
        prefetch: "off",
        wideFaults: true,
        recordPath: "/w",
      },
    ],
    (input) => {
      scratchFile("pager.json", input);
      readOptions(scratchFolder());
    },
  ),
  jsonText(
    "vmm/src/qemu/copy-files.ts readDescription",
    [{ version: "9", files: [] }],
    async (input) => {
      scratchFile("copy.json", input);
      await readDescription(scratchFolder());
    },
  ),
  bytes(
    "vmm/src/firecracker/whole-state.ts readState",
    ["memorystateTORPFCW1\x05\0\0\0\0\0\0\0"],
    async (input) => {
      const state = await readState(scratchFile("state", input), 6);
      assert.ok(state === undefined || state.length < input.length);
    },
  ),
  text(
    "agent/src/accounts.ts Accounts",
    ["root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:\n", "g:x:5:user,root\n"],
    (input) => {
      const path = scratchFile("passwd", input);
      const accounts = new Accounts(path, path);
      for (const name of ["root", "user", "__proto__"]) accounts.findUser(name);
      accounts.userName(0);
      accounts.groupName(5);
    },
  ),
  text(
    "agent/src/machine-identity.ts withOwnName",
    ["127.0.0.1 localhost\n127.0.1.1 old\n", ""],
    (hosts) => {
      assert.match(withOwnName(hosts, "mine"), /^127\.0\.1\.1 mine$/m);
    },
  ),
];

const sandbox = {
  id: "i123",
  template: "base",
  templateId: "t",
  state: "paused",
  generation: 1,
  createdAtMs: 1,
  metadata: { a: "b" },
  onTimeout: "pause",
  lastLines: ["x"],
  pager: {
    pid: 1,
    progress: {
      phase: "off",
      presentPages: 1,
      memoryPages: 2,
      faults: 3,
      prefetchedPages: 0,
      workingSetPages: 0,
      remark: "",
    },
  },
  missedDeadline: { rule: "r", atMs: 1, message: "m" },
  snapshot: { id: "s", generation: 1, createdAtMs: 1, memoryBytes: 2, diskBytes: 3 },
};

const commandLine: readonly Target[] = [
  text("cli/src/duration.ts parseDuration", ["90s", "5m", "2h", "1d", "never", "1.5h"], (value) => {
    const ms = toMs(parseDuration(value));
    assert.ok(ms === null || (Number.isSafeInteger(ms) && ms >= 0));
  }),
  text(
    "cli/src/server-timing.ts parseServerTiming",
    ["save-memory;dur=12.3, total;dur=20"],
    (value) => timingRows(parseServerTiming(value)),
  ),
  text("cli/src/sandbox-id.ts findSandbox", ["i12", "i123", ""], (value) =>
    findSandbox(value, [{ id: "i123" }, { id: "i124" }] as never),
  ),
  text("cli/src/usage.ts parsePairs", ["A=b C=d", "="], (value) =>
    parsePairs(value.split(" "), "-m"),
  ),
  text("cli/src/usage.ts parseEnv", ["A=b HOME", "__proto__"], (value) => {
    const env = parseEnv(value.split(" "), { HOME: "/root" });
    assert.ok(Object.values(env).every((one) => typeof one === "string"));
  }),
  text("cli/src/usage.ts parseCommandWords", ["-- ls -l", "ls", "-x"], (value) =>
    parseCommandWords(value.split(" ")),
  ),
  jsonText(
    "cli/src/daemon-log.ts errorFromLog",
    [
      {
        time: "2026-01-01T00:00:00Z",
        level: "error",
        message: "m",
        code: "vmm.failed",
        advice: "a",
      },
    ],
    (input) => {
      errorFromLog(input);
      assert.equal(typeof shownLogLine(input), "string");
    },
  ),
  json("cli/src/daemon-answers.ts parseSandbox", [sandbox], parseSandbox),
  json(
    "cli/src/daemon-answers.ts parseDaemon",
    [
      {
        pid: 1,
        version: "0",
        startedAtMs: 1,
        stateFolder: "/s",
        accelerator: "tcg",
        url: "u",
        templates: ["base"],
        sandboxCount: 0,
        settings: {},
      },
    ],
    parseDaemon,
  ),
  json(
    "cli/src/daemon-answers.ts parseSnapshot",
    [{ snapshotID: "s", names: ["a"], sandboxID: "i", createdAt: "2026-01-01T00:00:00Z", pool: 0 }],
    parseSnapshot,
  ),
  json(
    "cli/src/daemon-answers.ts parseForkResult",
    [
      { sandbox: { sandboxID: "i" } },
      { error: { code: "vmm.failed", message: "m", effect: "none" } },
    ],
    parseForkResult,
  ),
  json(
    "cli/src/daemon-answers.ts parseAccess",
    [{ sandboxID: "i", envdAccessToken: "t" }],
    parseAccess,
  ),
  json(
    "cli/src/daemon-answers.ts parseApiKey",
    [{ id: "k", name: "n", prefix: "p", createdAtMs: 1 }],
    parseApiKey,
  ),
  json("cli/src/daemon-answers.ts parseList", [[1], {}], (value) => parseList(value, "things")),
  json(
    "storage/src/settings.ts checkSettings",
    [{ TORPOR_PORT: "1", TORPOR_HOME: "/x", TORPOR_DOMAIN: "a.b", TORPOR_SPARES: "1" }],
    (value) => checkSettings(stringsOf(value)),
  ),
];

const programs: readonly Target[] = [
  text(
    "setup/src/apt.ts parseAptTargets",
    ["http://d/debian|bookworm|bookworm|main|Debian\n"],
    parseAptTargets,
  ),
  text(
    "setup/src/apt.ts parseAptStatus",
    ["dlstatus:1:50:Retrieving", "pmstatus:x:1.5:m"],
    parseAptStatus,
  ),
  text(
    "setup/src/apt.ts parseInheritedOptions",
    ['Acquire::http::Proxy "http://p";\n'],
    parseInheritedOptions,
  ),
  text(
    "setup/src/apt.ts parseOsRelease",
    ['ID=debian\nVERSION_CODENAME="bookworm"\n'],
    parseOsRelease,
  ),
  text(
    "setup/src/debian-packages.ts parseInstalledPackages",
    ["bash\tinstalled\t5.2\nx\tconfig-files\t1\n"],
    parseInstalledPackages,
  ),
  text(
    "setup/src/doctor.ts parseMemoryAvailable",
    ["MemAvailable:   12 kB\n"],
    parseMemoryAvailable,
  ),
  text(
    "setup/src/kernel.ts parseKernelDependency",
    ["Package: x\nDepends: linux-image-6.1.0-9-cloud-amd64 (= 6.1.27-1)\n"],
    parseKernelDependency,
  ),
  bytes("setup/src/vmlinux.ts findCompressedKernel", [bzImage()], findCompressedKernel),
  text(
    "setup/src/vmm-copy.ts parseLdd",
    ["\tlibc.so.6 => /lib/libc.so.6 (0x0)\n\t/lib64/ld.so (0x1)\n"],
    parseLdd,
  ),
  text(
    "vmm/src/firecracker/version.ts parseRelease",
    ["Firecracker v1.13.1\n", "1.2.3"],
    (value) => {
      const release = parseRelease(value);
      assert.deepEqual(parseRelease(formatRelease(release)), release);
    },
  ),
];

function bzImage(): Buffer {
  const image = Buffer.alloc(2_048);
  image.write("HdrS", 0x202, "latin1");
  image.writeUInt16LE(0x20f, 0x206);
  image.writeUInt8(1, 0x1f1);
  image.writeUInt32LE(0, 0x248);
  image.writeUInt32LE(64, 0x24c);
  image.set([0x1f, 0x8b], 1_024);
  return image;
}

export const hostTargets: readonly Target[] = [...files, ...commandLine, ...programs];
