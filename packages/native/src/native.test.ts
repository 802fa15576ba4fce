import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync, readlinkSync } from "node:fs";
import { Socket, createServer } from "node:net";
import { test } from "node:test";
import { bringUp, keepTap, openTap, openTcpSocket, setHardwareAddress } from "./network-device.ts";
import { NetworkNamespace } from "./network-namespace.ts";
import { ownPages, pageBytes, readOwnPages } from "./pagemap.ts";
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

test("ownPages() names exactly the pages a process wrote, on either path", async (t) => {
  const script = `
import mmap, sys
file = open(sys.argv[1], "rb")
memory = mmap.mmap(file.fileno(), 64 * 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
sum(memory[page * 4096] for page in range(64))
for page in (3, 4, 40): memory[page * 4096] = 1
print("ready", flush=True)
sys.stdin.read()
`;
  const path = process.execPath;
  const child = spawn("python3", ["-c", script, path], { stdio: ["pipe", "pipe", "inherit"] });
  t.after(() => child.kill("SIGKILL"));
  await once(child.stdout, "data");
  const maps = readFileSync(`/proc/${child.pid}/maps`, "utf8");
  const line = maps.split("\n").find((entry) => entry.endsWith(path) && entry.includes("rw-p"));
  const start = Number.parseInt(line?.split("-")[0] ?? "", 16);
  const range = { start, end: start + 64 * pageBytes };
  const expected = [
    { start: start + 3 * pageBytes, end: start + 5 * pageBytes },
    { start: start + 40 * pageBytes, end: start + 41 * pageBytes },
  ];
  assert.deepEqual(ownPages(child.pid ?? 0, range), expected);
  const fd = openSync(`/proc/${child.pid}/pagemap`, "r");
  assert.deepEqual(readOwnPages(fd, range), expected);
  closeSync(fd);
  child.stdin.end();
  await once(child, "close");
});

test("measureTscKhz() agrees with itself within what a hypervisor tolerates", async () => {
  const first = await measureTscKhz();
  const second = await measureTscKhz();
  assert.ok(Math.abs(first - second) / first < 0.001, `${first} and ${second}`);
});
