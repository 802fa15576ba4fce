/**
 * Programs that a benchmark runs in a guest: each leaves a process behind and returns when that is
 * ready.
 */

/** A program in Python: a process that stays does `work`; its parent ends once that is done. */
function staying(work: string): string {
  return `
import os, signal, sys
done, ready = os.pipe()
if os.fork() > 0:
    os.close(ready)
    sys.exit(0 if os.read(done, 1) == b"." else 1)
os.setsid()
for stream in (0, 1, 2):
    os.dup2(os.open(os.devnull, os.O_RDWR), stream)
with open("/tmp/staying.pid", "w") as file:
    file.write(str(os.getpid()))
${work}
os.write(ready, b".")
signal.pause()
`;
}

/** Fills fresh memory with random bytes and keeps it; frees what the fill before it kept. */
export function fillMemory(mib: number): readonly [string, ...string[]] {
  const work = `
memory = bytearray()
for _ in range(${mib}):
    memory += os.urandom(1 << 20)
`;
  return ["/bin/sh", "-c", `${endStaying}; exec python3 -c "$0"`, staying(work)];
}

/** Imports modules and computes for some seconds, like a program that starts. */
export const warmUp: readonly [string, ...string[]] = [
  "/usr/bin/python3",
  "-c",
  staying(`
import asyncio, decimal, email, http.server, json, sqlite3, ssl, unittest, xml.dom.minidom
table = {str(number): [number, number * number] for number in range(100_000)}
text = json.dumps(table)
again = json.loads(text)
primes = [n for n in range(2, 20_000) if all(n % d for d in range(2, int(n ** 0.5) + 1))]
`),
];

/** Succeeds if the process that `warmUp` left is alive. */
export const askWarm: readonly [string, ...string[]] = [
  "/bin/sh",
  "-c",
  "kill -0 $(cat /tmp/staying.pid)",
];

const endStaying = "test -e /tmp/staying.pid && kill -9 $(cat /tmp/staying.pid)";
