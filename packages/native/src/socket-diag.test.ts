import assert from "node:assert/strict";
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { type Interface, createInterface } from "node:readline";
import { test } from "node:test";
import { Deadline } from "@torpor/std";
import { NetworkNamespace } from "./network-namespace.ts";
import { type TcpConnectionName, destroyTcpConnections } from "./socket-diag.ts";

const asRoot = { skip: process.getuid?.() === 0 ? false : "needs root" };

/** Runs Python statements on request, and prints the value of an expression as JSON. */
const interpreter = `
import errno, json, socket, sys

def listen(address, family=socket.AF_INET):
    one = socket.socket(family)
    if family == socket.AF_INET6: one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    one.bind((address, 7000))
    one.listen(1000)
    return one

def connect(address, family=socket.AF_INET):
    one = socket.socket(family)
    one.settimeout(10)
    one.connect((address, 7000))
    return one

def name(one):
    (near, nearPort, *_), (far, farPort, *_) = one.getsockname(), one.getpeername()
    return dict(localAddress=near, localPort=nearPort, remoteAddress=far, remotePort=farPort)

def state(one):
    one.settimeout(0)
    try: return "ended" if one.recv(1) == b"" else "data"
    except OSError as failure: return errno.errorcode[failure.errno]

for line in sys.stdin:
    request = json.loads(line)
    exec(request["run"])
    print(json.dumps(eval(request["give"])), flush=True)
`;

/** A program with sockets of its own, in a namespace. */
class Program implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #answers: Interface;

  constructor(namespace: NetworkNamespace) {
    const child = namespace.enter(() =>
      spawn("python3", ["-c", interpreter], { stdio: ["pipe", "pipe", "inherit"] }),
    );
    this.#child = child;
    this.#answers = createInterface(child.stdout);
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  async ask(run: string, give = "None"): Promise<unknown> {
    const answer = once(this.#answers, "line");
    this.#child.stdin?.write(`${JSON.stringify({ run, give })}\n`);
    const [line] = (await answer) as [string];
    return JSON.parse(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdin?.end();
    if (this.#child.exitCode === null) await once(this.#child, "exit");
  }
}

interface Machines extends AsyncDisposable {
  readonly namespace: NetworkNamespace;
  /** In `namespace`, at 10.9.0.1 and fd09::1. */
  readonly guest: Program;
  /** Elsewhere, at 10.9.0.2 and fd09::2. */
  readonly outside: Program;
}

/** Two machines with a cable between them. */
async function startMachines(): Promise<Machines> {
  await using undo = new AsyncDisposableStack();
  const namespace = undo.use(NetworkNamespace.create());
  const elsewhere = undo.use(NetworkNamespace.create());
  const guest = undo.use(new Program(namespace));
  const outside = undo.use(new Program(elsewhere));
  const ip = (where: NetworkNamespace, command: string): void => {
    where.enter(() => execFileSync("ip", command.split(" ")));
  };
  ip(namespace, "link set lo up");
  ip(namespace, `link add cable type veth peer name cable netns ${outside.pid}`);
  for (const [where, host] of [[namespace, 1] as const, [elsewhere, 2] as const]) {
    ip(where, `address add 10.9.0.${host}/24 dev cable`);
    ip(where, `address add fd09::${host}/64 dev cable nodad`);
    ip(where, "link set cable up");
  }
  const owned = undo.move();
  return { namespace, guest, outside, [Symbol.asyncDispose]: () => owned.disposeAsync() };
}

function destroyIn(namespace: NetworkNamespace, spared?: TcpConnectionName): number {
  const deadline = Deadline.after(10_000, "destroying connections");
  const { count, complete } = namespace.enter(() => destroyTcpConnections(spared, deadline));
  assert.ok(complete);
  return count;
}

test(
  "connections to elsewhere are destroyed in every state and family, at once",
  asRoot,
  async () => {
    await using machines = await startMachines();
    const { namespace, guest, outside } = machines;
    await outside.ask("server = listen('::', socket.AF_INET6)");
    await guest.ask("server = listen('::', socket.AF_INET6)");
    await guest.ask(
      "out4 = connect('10.9.0.2'); out6 = connect('fd09::2', socket.AF_INET6);" +
        "mapped = connect('::ffff:10.9.0.2', socket.AF_INET6)",
    );
    await guest.ask("half = connect('10.9.0.2'); half.shutdown(socket.SHUT_WR)");
    await outside.ask(
      "inwards = connect('10.9.0.1'); accepted = [server.accept()[0] for _ in range(4)]",
    );
    await guest.ask("inwards = server.accept()[0]");
    await outside.ask("waiting = connect('10.9.0.1')");
    await guest.ask("left = connect('10.9.0.2')");
    await outside.ask("server.accept()[0].close()");
    await guest.ask(
      "silent = socket.socket(); silent.setblocking(False); silent.connect_ex(('10.9.0.9', 7000))",
    );
    assert.equal(destroyIn(namespace), 8);
    // A socket that was notified of an end before reads that end.
    const near = "[state(one) for one in (out4, out6, mapped, half, inwards, silent, left)]";
    const aborted = Array<string>(6).fill("ECONNABORTED");
    assert.deepEqual(await guest.ask("", near), [...aborted, "ended"]);
    const far = "[state(one) for one in (*accepted[:3], inwards, waiting, accepted[3])]";
    const reset = Array<string>(5).fill("ECONNRESET");
    assert.deepEqual(await outside.ask("", far), [...reset, "ended"]);
    assert.equal(destroyIn(namespace), 0, "none is left");
  },
);

test(
  "connections that no program has accepted are destroyed, half open or whole",
  asRoot,
  async () => {
    await using machines = await startMachines();
    const { namespace, guest, outside } = machines;
    // With TCP_DEFER_ACCEPT a connection stays in SYN_RECV until its first byte.
    await guest.ask(
      "server = listen('::', socket.AF_INET6);" +
        "server.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 60)",
    );
    await outside.ask("silent = [connect('10.9.0.1') for _ in range(20)]");
    await outside.ask("speaking = [connect('10.9.0.1') for _ in range(20)]");
    await outside.ask("for one in speaking: one.send(b'before')");
    const inState = (code: string): string =>
      `sum(line.split()[3] == '${code}' for line in open('/proc/self/net/tcp6'))`;
    assert.equal(await guest.ask("", inState("03")), 20, "SYN_RECV");
    assert.equal(await guest.ask("", inState("01")), 20, "ESTABLISHED");
    assert.equal(destroyIn(namespace), 40);
    assert.equal(await guest.ask("", inState("03")), 0);
    const reset = Array<string>(20).fill("ECONNRESET");
    assert.deepEqual(await outside.ask("", "[state(one) for one in speaking]"), reset);
    // The far end of a half-open connection gets the reset after its first byte.
    await outside.ask("for one in silent: one.send(b'late')");
    assert.deepEqual(await outside.ask("", "[state(one) for one in silent]"), reset);
    await outside.ask("fresh = connect('10.9.0.1'); fresh.send(b'after')");
    await guest.ask("server.settimeout(10); queue = [server.accept()[0] for _ in range(21)]");
    // The server first reads the data that was sent before, as from any peer that goes away, and
    // then gets the error.
    const words = "[one.recv(10).decode() for one in queue]";
    assert.deepEqual(await guest.ask("", words), [...Array<string>(20).fill("before"), "after"]);
    assert.deepEqual(await guest.ask("", "[state(one) for one in queue]"), [
      ...Array<string>(20).fill("ECONNABORTED"),
      "EAGAIN",
    ]);
  },
);

test(
  "loopback, the own address, who listens and the one that is named are spared",
  asRoot,
  async () => {
    await using machines = await startMachines();
    const { namespace, guest, outside } = machines;
    await guest.ask("server = listen('::', socket.AF_INET6)");
    await outside.ask("first = connect('10.9.0.1'); second = connect('10.9.0.1')");
    await guest.ask("first = server.accept()[0]; second = server.accept()[0]");
    await guest.ask(
      "near = [connect('127.0.0.1'), connect('127.0.1.1'), connect('::1', socket.AF_INET6)," +
        " connect('10.9.0.1'), connect('fd09::1', socket.AF_INET6)];" +
        "near += [server.accept()[0] for _ in range(5)]",
    );
    const spared = (await guest.ask("", "name(first)")) as TcpConnectionName;
    assert.equal(destroyIn(namespace, spared), 1);
    assert.equal(await guest.ask("", "state(first)"), "EAGAIN");
    assert.equal(await outside.ask("", "state(first)"), "EAGAIN");
    assert.equal(await outside.ask("", "state(second)"), "ECONNRESET");
    assert.deepEqual(await guest.ask("", "[state(one) for one in near]"), Array(10).fill("EAGAIN"));
    await outside.ask("third = connect('10.9.0.1')");
    assert.equal(await guest.ask("third = server.accept()[0]", "state(third)"), "EAGAIN");
  },
);

test("thousands are destroyed, and a deadline ends the work", asRoot, async () => {
  await using machines = await startMachines();
  const { namespace, guest, outside } = machines;
  const count = 3000;
  const raise = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (8192, 8192))";
  await guest.ask(`${raise}; server = listen('10.9.0.1')`);
  await outside.ask(raise);
  await outside.ask("many = []");
  for (let made = 0; made < count; made += 500) {
    await outside.ask("many += [connect('10.9.0.1') for _ in range(500)]");
    await guest.ask("kept = globals().get('kept', []) + [server.accept()[0] for _ in range(500)]");
  }
  const noTime = Deadline.after(0, "destroying connections");
  const none = namespace.enter(() => destroyTcpConnections(undefined, noTime));
  assert.deepEqual(none, { count: 0, complete: false });
  assert.equal(destroyIn(namespace), count);
  const aborted = "sum(state(one) == 'ECONNABORTED' for one in kept)";
  assert.equal(await guest.ask("", aborted), count);
});
