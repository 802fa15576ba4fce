/** Programs in the daemon's place end in every way that a daemon may end. */
import assert from "node:assert/strict";
import { mkdtempDisposable, readFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";
import { silentLogger } from "@torpor/std";
import { supervise } from "./supervisor.ts";

interface Outcome {
  readonly code: number;
  /** How many times the program was started. */
  readonly starts: number;
}

/** Supervises a program that runs `first` the first time and `next` after that. */
async function runSupervised(
  first: string,
  next: string,
  endAfterStart = false,
  downAtMs = () => 0,
): Promise<Outcome> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-supervisor-"));
  const path = join(folder.path, "starts");
  const program = `
    const { appendFileSync, readFileSync } = require("node:fs");
    const path = ${JSON.stringify(path)};
    appendFileSync(path, ".");
    const say = (news) => new Promise((done) => process.send(news, undefined, undefined, done));
    const again = readFileSync(path, "utf8").length > 1;
    (async () => { if (again) { ${next} } else { ${first} } })();
  `;
  const startsOf = async (): Promise<number> =>
    (await readFile(path, "utf8").catch(() => "")).length;
  const end = new AbortController();
  const outcome = supervise({
    argv: [process.execPath, "-e", program],
    log: silentLogger,
    signal: end.signal,
    downAtMs,
  });
  if (endAfterStart) {
    while ((await startsOf()) === 0) await sleep(20);
    await sleep(100);
    end.abort();
  }
  return { code: await outcome, starts: await startsOf() };
}

const kill = 'process.kill(process.pid, "SIGKILL");';
const serve = 'await say("serving");';

const ways: readonly (readonly [string, string, string, Outcome])[] = [
  [
    "one that crashed is started again",
    `${serve} process.exit(70);`,
    "process.exit(0);",
    { code: 0, starts: 2 },
  ],
  [
    "one that was killed is started again",
    `${serve} ${kill}`,
    "process.exit(0);",
    { code: 0, starts: 2 },
  ],
  ["one that ended by itself is not", `${serve} process.exit(0);`, "", { code: 0, starts: 1 }],
  ["one that refused to start is not", "process.exit(1);", "", { code: 1, starts: 1 }],
  ["one that crashed before it served is not", "process.exit(70);", "", { code: 70, starts: 1 }],
  [
    "one that is refused after a crash is not",
    `${serve} ${kill}`,
    "process.exit(1);",
    { code: 1, starts: 2 },
  ],
  [
    "one that was killed while it ended is not",
    `${serve} await say("ending"); ${kill}`,
    "",
    { code: 1, starts: 1 },
  ],
];
for (const [title, first, next, outcome] of ways) {
  test(title, async () => {
    assert.deepEqual(await runSupervised(first, next), outcome);
  });
}

test("a supervisor that is told to end tells its daemon, and ends with it", async () => {
  const first = `process.on("SIGTERM", () => process.exit(0)); ${serve} setInterval(() => {}, 1e6);`;
  assert.deepEqual(await runSupervised(first, "", true), { code: 0, starts: 1 });
});

test("none is started again once nobody wants one", async () => {
  const outcome = await runSupervised(`${serve} ${kill}`, "process.exit(0);", false, () =>
    Date.now(),
  );
  assert.deepEqual(outcome, { code: 0, starts: 1 });
});
