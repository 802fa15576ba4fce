/**
 * A program inside a sandbox that can tell whether it slept: it counts in memory, holds a secret
 * that exists nowhere else, a file that is deleted but open, and bytes in a pipe, and reports all
 * of it on a port of the guest.
 */
import assert from "node:assert/strict";
import { parseJson } from "@torpor/std";
import type { TestSandbox } from "./test-sandbox.ts";

const port = 8000;

const program = `
import json, os, socket, threading, time
secret = os.urandom(16).hex()
held = open("/home/user/held", "w+")
held.write("held by " + secret)
held.flush()
os.unlink("/home/user/held")
read_end, write_end = os.pipe()
os.write(write_end, b"piped by " + secret.encode())
ticks = 0
def count():
    global ticks
    while True:
        ticks += 1
        time.sleep(0.02)
threading.Thread(target=count, daemon=True).start()
server = socket.create_server(("0.0.0.0", ${port}))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    with client:
        client.recv(65536)
        held.seek(0)
        piped = os.read(read_end, 4096)
        os.write(write_end, piped)
        body = json.dumps({
            "pid": os.getpid(), "ticks": ticks, "secret": secret, "held": held.read(),
            "piped": piped.decode(), "timeMs": time.time() * 1000,
        })
        client.sendall(
            ("HTTP/1.1 200 OK\\r\\nConnection: close\\r\\nContent-Length: %d\\r\\n\\r\\n%s"
             % (len(body), body)).encode())
`;

/** The program's report. */
export interface Testimony {
  readonly pid: number;
  readonly ticks: number;
  readonly secret: string;
  readonly held: string;
  readonly piped: string;
  /** The guest's wall clock, and the host's just before and after it was read. */
  readonly timeMs: number;
  readonly hostBeforeMs: number;
  readonly hostAfterMs: number;
}

/** A running witness, and its first report. */
export class Witness {
  readonly #first: Testimony;

  private constructor(first: Testimony) {
    this.#first = first;
  }

  static async start(sandbox: TestSandbox): Promise<Witness> {
    using process = await sandbox.start(["python3", "-c", program]);
    assert.equal(await process.readLine(), "ready");
    return new Witness(await Witness.ask(sandbox));
  }

  /** Asks the program for its present report. */
  static async ask(sandbox: TestSandbox): Promise<Testimony> {
    const hostBeforeMs = Date.now();
    const { status, text } = await sandbox.request(port, "GET", "/");
    const hostAfterMs = Date.now();
    assert.equal(status, 200, text);
    const said = parseJson(text, "testimony") as Omit<Testimony, "hostBeforeMs" | "hostAfterMs">;
    return { ...said, hostBeforeMs, hostAfterMs };
  }

  /**
   * Asserts that it is the same process with everything it held, and that it continues to count.
   */
  async confirm(sandbox: TestSandbox): Promise<Testimony> {
    const said = await Witness.ask(sandbox);
    const { pid, secret } = this.#first;
    assert.equal(said.pid, pid);
    assert.equal(said.secret, secret);
    assert.equal(said.held, `held by ${secret}`);
    assert.equal(said.piped, `piped by ${secret}`);
    assert.ok(said.ticks >= this.#first.ticks, "the count never falls");
    return said;
  }
}
