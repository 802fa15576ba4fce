import assert from "node:assert/strict";
import { appendFile, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { errorFromLog, followLog, logSize, readLogFrom, shownLogLine } from "./daemon-log.ts";

const info = '{"time":"2026-01-01T00:00:00Z","level":"info","message":"serving"}';
const error =
  '{"level":"error","message":"port 7330 is taken","code":"port.inUse","advice":"Free it."}';

async function tempLog(): Promise<AsyncDisposable & { path: string }> {
  const folder = await mkdtemp(join(tmpdir(), "torpor-log-"));
  return {
    path: join(folder, "daemon.log"),
    [Symbol.asyncDispose]: () => rm(folder, { recursive: true }),
  };
}

test("the last error of a log says why the daemon ended", () => {
  const found = errorFromLog(`${error.replace("7330", "1")}\n${error}\n${info}\n`);
  assert.equal(found?.code, "port.inUse");
  assert.equal(found?.rawMessage, "port 7330 is taken");
  assert.equal(found?.advice, "Free it.");
});

test("a crash before the first line of log shows what was printed", () => {
  const found = errorFromLog(`${info}\nSyntaxError: x\n    at y\n`);
  assert.equal(found?.rawMessage, "SyntaxError: x\n    at y");
  assert.equal(errorFromLog(`${info}\n`), undefined);
  assert.equal(errorFromLog(""), undefined);
});

test("an unknown code is kept out of the table", () => {
  assert.equal(errorFromLog('{"level":"error","message":"m","code":"new.one"}')?.code, "internal");
});

test("a line is shown with its fields; what is no JSON stays as it is", () => {
  const shown = shownLogLine('{"time":"x","level":"warn","message":"m","id":"i1","ms":3}');
  assert.match(shown, /warn {2}m {2}id=i1 ms=3$/);
  assert.equal(shownLogLine("plain"), "plain");
  assert.equal(shownLogLine("{broken"), "{broken");
});

test("reading starts at an offset; a missing log is empty", async () => {
  await using log = await tempLog();
  assert.equal(await logSize(log.path), 0);
  assert.equal(await readLogFrom(log.path, 0), "");
  await writeFile(log.path, "old\nnew\n");
  assert.equal(await readLogFrom(log.path, 4), "new\n");
});

test("following gives whole lines, also when they come in pieces or the file is emptied", async () => {
  await using log = await tempLog();
  await writeFile(log.path, "before\n");
  const stop = new AbortController();
  const lines: string[] = [];
  const waiters: (() => void)[] = [];
  const nextLine = (): Promise<void> => new Promise((resolve) => void waiters.push(resolve));
  const onLine = (line: string): void => {
    lines.push(line);
    waiters.shift()?.();
  };
  let next = nextLine();
  const following = followLog(log.path, await logSize(log.path), onLine, stop.signal);
  await appendFile(log.path, "one ä");
  await appendFile(log.path, " end\n");
  await next;
  next = nextLine();
  await writeFile(log.path, "x\n");
  await next;
  stop.abort();
  await following;
  assert.deepEqual(lines, ["one ä end", "x"]);
});
