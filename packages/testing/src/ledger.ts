/**
 * A program inside a sandbox whose memory and file change unpredictably, and which reports their
 * checksums: a sleep must bring both back byte for byte. Some of the changed pages become zero,
 * where a snapshot that guesses goes wrong.
 */
import assert from "node:assert/strict";
import type { TestSandbox } from "./test-sandbox.ts";

const port = 8003;

/** The program reads the file from the disk and not from the page cache. */
function program(heldMiB: number): string {
  return `
import hashlib, mmap, os, random, socket
size = ${heldMiB} << 20
memory = mmap.mmap(-1, size)
path = "/home/user/ledger"
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
    return random.sample(range(size // 4096), min(count, size // 4096))
def change():
    for page in pages(512):
        memory[page * 4096:(page + 1) * 4096] = os.urandom(4096)
    for page in pages(256):
        memory[page * 4096:(page + 1) * 4096] = bytes(4096)
    with open(path, "r+b") as file:
        for page in pages(64):
            file.seek(page * 4096)
            file.write(os.urandom(4096))
        for page in pages(16):
            file.seek(page * 4096)
            file.write(bytes(4096))
def fill():
    for at in range(0, size, 4096):
        memory[at:at + 4096] = os.urandom(4096)
def blank():
    for at in range(0, size, 4096):
        memory[at:at + 4096] = bytes(4096)
verbs = {"digest": digest, "change": change, "fill": fill, "blank": blank}
server = socket.create_server(("0.0.0.0", ${port}))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    with client:
        try:
            verb = client.recv(65536).split(b" ")[1].decode()[1:]
            body = str(verbs[verb]())
            client.sendall(
                ("HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s"
                 % (len(body), body)).encode())
        except OSError:
            pass
`;
}

/** A running ledger, and what it reported last. */
export class Ledger {
  /** The checksums of memory and file, as last reported. */
  #digest: string;

  private constructor(digest: string) {
    this.#digest = digest;
  }

  static async start(sandbox: TestSandbox, heldMiB = 8): Promise<Ledger> {
    // As root, because the program drops the page cache.
    using process = await sandbox.start(["python3", "-c", program(heldMiB)], { user: "root" });
    assert.equal(await process.readLine(), "ready");
    return new Ledger(await tell(sandbox, "digest"));
  }

  /**
   * Changes memory and file; `fill` leaves no page of its memory without random bytes, `blank`
   * zeros only.
   * @returns SHA-256 of memory and of the file, in hexadecimal, with a space between.
   */
  async change(
    sandbox: TestSandbox,
    verb: "change" | "fill" | "blank" = "change",
  ): Promise<string> {
    await tell(sandbox, verb);
    const digest = await tell(sandbox, "digest");
    assert.notEqual(digest, this.#digest);
    this.#digest = digest;
    return digest;
  }

  /** Asserts that both are as last reported. */
  async confirm(sandbox: TestSandbox): Promise<void> {
    assert.equal(await tell(sandbox, "digest"), this.#digest);
  }
}

async function tell(sandbox: TestSandbox, verb: string): Promise<string> {
  const { status, text } = await sandbox.request(port, "GET", `/${verb}`);
  assert.equal(status, 200, text);
  return text;
}
