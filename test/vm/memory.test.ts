/**
 * Every byte of a sandbox comes back. A program fills memory with bytes that cannot be guessed,
 * blanks some, and rewrites parts of a file; its checksums before and after each sleep are the same,
 * cycle after cycle, each on top of the one before. A snapshot holds what differs from the template
 * and no more: it grows with what is written, and shrinks again when memory is blanked.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { type TestSandbox, startTestDaemon } from "@torpor/testing";

const cycleCount = 8;
const bytesPerMiB = 1024 * 1024;
const heldMiB = 16;
/** The guest's other doings between two looks: page cache, logs, the agent's heap. */
const noiseMiB = 12;

/** Each request names a verb. Reads of the file come from the disk and not from the page cache. */
const program = `
import hashlib, mmap, os, random, socket
size = ${heldMiB} << 20
memory = mmap.mmap(-1, size)
path = "/home/user/data"
with open(path, "wb") as file:
    file.truncate(size)
def digest():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as drop:
        drop.write("3")
    disk = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(65536):
            disk.update(part)
    return hashlib.sha256(memory).hexdigest() + " " + disk.hexdigest()
def pages(count):
    return random.sample(range(size // 4096), count)
def change():
    for page in pages(512):
        memory[page * 4096:(page + 1) * 4096] = os.urandom(4096)
    for page in pages(256):
        memory[page * 4096:(page + 1) * 4096] = bytes(4096)
    with open(path, "r+b") as file:
        for page in pages(64):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
def fill():
    for at in range(0, size, 4096):
        memory[at:at + 4096] = os.urandom(4096)
def blank():
    for at in range(0, size, 4096):
        memory[at:at + 4096] = bytes(4096)
server = socket.create_server(("0.0.0.0", 8000))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    with client:
        verb = client.recv(65536).split(b" ")[1].decode()[1:]
        body = str({"digest": digest, "change": change, "fill": fill, "blank": blank}[verb]())
        client.sendall(
            ("HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s"
             % (len(body), body)).encode())
`;

async function tell(sandbox: TestSandbox, verb: string): Promise<string> {
  const { status, text } = await sandbox.request(8000, "GET", `/${verb}`);
  assert.equal(status, 200, text);
  return text;
}

/** Sleeps and wakes; returns how much the snapshot took on disk for memory. */
async function cycle(sandbox: TestSandbox): Promise<number> {
  await sandbox.pause();
  const { snapshot } = await sandbox.info();
  assert.ok(snapshot !== null);
  await sandbox.resume();
  return snapshot.memoryBytes / bytesPerMiB;
}

test("every byte of memory and disk comes back", async (t) => {
  await using daemon = await startTestDaemon();
  const sandbox = await daemon.create();
  {
    // As root, because it drops the page cache.
    using process = await sandbox.start(["python3", "-c", program], { user: "root" });
    assert.equal(await process.readLine(), "ready");
  }
  await tell(sandbox, "digest");
  const emptyMiB = await cycle(sandbox);

  await t.test(`${cycleCount} sleeps, with changes in between`, async () => {
    const digests = new Set<string>();
    for (let count = 0; count < cycleCount; count++) {
      await tell(sandbox, "change");
      const before = await tell(sandbox, "digest");
      digests.add(before);
      const savedMiB = await cycle(sandbox);
      assert.equal(await tell(sandbox, "digest"), before);
      const mostMiB = emptyMiB + heldMiB + noiseMiB;
      assert.ok(savedMiB <= mostMiB, `cycle ${count} took ${savedMiB} MiB of ${mostMiB} at most`);
    }
    assert.equal(digests.size, cycleCount, "each cycle changed something");
  });

  await t.test("a snapshot is as large as what was written", async () => {
    await tell(sandbox, "fill");
    const before = await tell(sandbox, "digest");
    const fullMiB = await cycle(sandbox);
    assert.equal(await tell(sandbox, "digest"), before);

    await tell(sandbox, "blank");
    const blankedMiB = await cycle(sandbox);
    const shrunkMiB = fullMiB - blankedMiB;
    // It may shrink by more: the guest's kernel takes freed pages for the zeroes, too.
    assert.ok(shrunkMiB >= heldMiB - noiseMiB / 2, `it shrank by ${shrunkMiB} MiB`);
    assert.equal(
      (await tell(sandbox, "digest")).split(" ")[0],
      "080acf35a507ac9849cfcba47dc2ad83e01b75663a516279c8b9d243b719643e",
      "sixteen MiB of zeroes",
    );
  });
});
