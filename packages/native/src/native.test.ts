import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, readlinkSync } from "node:fs";
import { Socket, createServer } from "node:net";
import { test } from "node:test";
import { bringUp, keepTap, openTap, openTcpSocket, setHardwareAddress } from "./network-device.ts";
import { NetworkNamespace } from "./network-namespace.ts";
import { mappedPages, ownPages, pageBytes, readPages } from "./pagemap.ts";
import { measureTscKhz } from "./timestamp-counter.ts";

const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root" };

test("enter() returns to the own namespace, also when the work throws", asRoot, () => {
  const home = readlinkSync("/proc/thread-self/ns/net");
  using namespace = NetworkNamespace.create();
  const inside = namespace.enter(() => readlinkSync("/proc/thread-self/ns/net"));
  assert.notEqual(inside, home);
  assert.throws(
    () =>
      namespace.enter(() => {
        throw new Error("work failed");
      }),
    /work failed/,
  );
  assert.equal(readlinkSync("/proc/thread-self/ns/net"), home);
});

test("openTap() makes a device that exists in its namespace alone", asRoot, () => {
  using namespace = NetworkNamespace.create();
  const fd = namespace.enter(() => {
    const tap = openTap("tap0");
    setHardwareAddress("tap0", "02:00:00:00:00:01");
    bringUp("tap0", "169.254.0.22", 30);
    assert.match(readFileSync("/proc/thread-self/net/dev", "utf8"), /tap0/);
    return tap;
  });
  assert.doesNotMatch(readFileSync("/proc/net/dev", "utf8"), /tap0/);
  closeSync(fd);
});

test("keepTap() leaves a device that can be opened again by its name", asRoot, () => {
  using namespace = NetworkNamespace.create();
  namespace.enter(() => {
    const first = openTap("tap0");
    bringUp("tap0", "169.254.0.22", 30);
    assert.throws(() => openTap("tap0"), { code: "EBUSY" });
    keepTap(first);
    closeSync(first);
    closeSync(openTap("tap0"));
    assert.match(readFileSync("/proc/thread-self/net/fib_trie", "utf8"), /169\.254\.0\.22/);
  });
  assert.doesNotMatch(readFileSync("/proc/net/dev", "utf8"), /tap0/);
});

test("openTcpSocket() connects inside the namespace it was opened in", asRoot, async () => {
  using namespace = NetworkNamespace.create();
  await using server = createServer((socket) => socket.end("from outside")).listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  assert.ok(typeof address === "object" && address !== null);
  const fd = namespace.enter(openTcpSocket);
  const socket = new Socket({ fd });
  socket.connect(address.port, "127.0.0.1");
  const [error] = (await once(socket, "error")) as [NodeJS.ErrnoException];
  assert.equal(error.code, "ENETUNREACH", "the server outside is out of reach from inside");
});

test("ownPages() names exactly the pages a process wrote, on either path, mappedPages() also those it read", async () => {
  const mappedPageCount = 4096;
  const script = `
import mmap, sys
file = open(sys.argv[1], "rb")
memory = mmap.mmap(file.fileno(), ${mappedPageCount} * 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
sum(memory[page * 4096] for page in range(64))
for page in (3, 4, 40, *range(1000, 3000, 2)): memory[page * 4096] = 1
print("ready", flush=True)
sys.stdin.read()
`;
  const path = process.execPath;
  const child = spawn("python3", ["-c", script, path], { stdio: ["pipe", "pipe", "inherit"] });
  try {
    await once(child.stdout, "data");
    const maps = readFileSync(`/proc/${child.pid}/maps`, "utf8");
    const line = maps.split("\n").find((entry) => entry.endsWith(path) && entry.includes("rw-p"));
    const start = Number.parseInt(line?.split("-")[0] ?? "", 16);
    const range = { start, end: start + mappedPageCount * pageBytes };
    const expected = [
      { start: start + 3 * pageBytes, end: start + 5 * pageBytes },
      // More than the kernel records at a time.
      ...[40, ...Array.from({ length: 1000 }, (_none, index) => 1000 + 2 * index)].map((page) => ({
        start: start + page * pageBytes,
        end: start + (page + 1) * pageBytes,
      })),
    ];
    assert.deepEqual(ownPages(child.pid ?? 0, range), expected);
    const fd = openSync(`/proc/${child.pid}/pagemap`, "r");
    assert.deepEqual(readPages(fd, range, "own"), expected);
    const mapped = mappedPages(child.pid ?? 0, range);
    assert.deepEqual(readPages(fd, range, "mapped"), mapped);
    const [first] = mapped;
    assert.ok(first?.start === start && first.end >= start + 64 * pageBytes, "all that was read");
    // The kernel maps some pages beside them as well, from the same part of the file.
    assert.ok((mapped.at(-1)?.end ?? 0) < range.end - 512 * pageBytes);
    closeSync(fd);
  } finally {
    child.kill();
    await once(child, "close");
  }
});

test("measureTscKhz() agrees with itself within what a hypervisor tolerates", async () => {
  const first = await measureTscKhz();
  const second = await measureTscKhz();
  assert.ok(Math.abs(first - second) / first < 0.001, `${first} and ${second}`);
});
