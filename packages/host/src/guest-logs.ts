/**
 * What guests say on their consoles, as log entries: the lines of the agent, which are JSON, and those
 * of the kernel and of the guest's own start, which are text.
 *
 * A console is a file that goes away when the sandbox sleeps, so it is read along and the newest entries
 * are kept in memory. Its end is kept on disk then, and read once more: so the last run's entries are
 * there for a sandbox that sleeps, also in another daemon. Older ones go with the daemon.
 *
 * SAFETY: the guest is hostile and says what it likes, its clock included: every bound here is ours, and
 * an entry is never older than the one before it nor newer than now.
 */
import { join } from "node:path";
import { ignoreFailure, systemCode } from "@torpor/std";
import type { SandboxFolder } from "@torpor/storage";
import { openRunFile, runFiles } from "@torpor/vmm";
import type { ApiSandbox } from "./api/api-host.ts";
import { lastWordsBytesMax, readLastWords } from "./last-words.ts";
import { type LogEntry, parseLogLine } from "./guest-log-line.ts";

const lookEveryMs = 5_000;
/** LIMITS of what is kept of one sandbox, and of one look. */
const keptBytesMax = 256 * 1024;
const readBytesMax = 256 * 1024;
const lineCharsMax = 4_096;
/** What an entry takes beside its text. */
const entryBytes = 200;

interface Followed {
  generation: number;
  offsetBytes: number;
  /** The beginning of a line whose end is not there yet. */
  rest: string;
  entries: LogEntry[];
  keptBytes: number;
  reading: Promise<void>;
}

export class GuestLogs implements Disposable {
  readonly #followed = new WeakMap<ApiSandbox, Followed>();
  readonly #timer: NodeJS.Timeout;

  /** From now on until disposed. */
  constructor(all: () => readonly ApiSandbox[]) {
    this.#timer = setInterval(() => {
      for (const sandbox of all()) {
        if (sandbox.run !== undefined) void ignoreFailure("read again", this.of(sandbox));
      }
    }, lookEveryMs);
    this.#timer.unref();
  }

  /** Oldest first, up to this moment. */
  async of(sandbox: ApiSandbox): Promise<readonly LogEntry[]> {
    const { generation } = sandbox.record;
    const followed = this.#followed.get(sandbox) ?? {
      generation,
      offsetBytes: 0,
      rest: "",
      entries: [],
      keptBytes: 0,
      reading: Promise.resolve(),
    };
    this.#followed.set(sandbox, followed);
    const reading = followed.reading.then(() => readOn(sandbox, followed));
    followed.reading = ignoreFailure("the caller is told", reading);
    await reading;
    return followed.entries;
  }

  [Symbol.dispose](): void {
    clearInterval(this.#timer);
  }
}

async function readOn(sandbox: ApiSandbox, followed: Followed): Promise<void> {
  const { generation } = sandbox.record;
  if (followed.generation !== generation)
    Object.assign(followed, { generation, offsetBytes: 0, rest: "" });
  const { folder } = sandbox;
  const text =
    (await readNew(join(folder.run(generation), runFiles.console), followed)) ??
    (await readKept(folder, followed)) ??
    "";
  const lines = `${followed.rest}${text}`.split("\n");
  followed.rest = (lines.pop() ?? "").slice(-lineCharsMax);
  for (const line of lines) keep(followed, line);
}

/** Of a run that is over. What was kept whole goes on where the last look ended. */
async function readKept(folder: SandboxFolder, followed: Followed): Promise<string | undefined> {
  const last = await readLastWords(folder, runFiles.console);
  if (last === undefined) return undefined;
  const { bytes, generation } = last;
  // Those of an earlier run have been read, unless nothing has been yet.
  if (generation !== followed.generation) {
    return followed.entries.length === 0 ? bytes.toString() : undefined;
  }
  const isWhole = bytes.length < lastWordsBytesMax && bytes.length >= followed.offsetBytes;
  if (!isWhole && followed.offsetBytes > 0) return undefined;
  const fresh = bytes.subarray(followed.offsetBytes).toString();
  followed.offsetBytes = bytes.length;
  return fresh;
}

/** What was appended since the last look, its last part when that is much; undefined without a file. */
async function readNew(path: string, followed: Followed): Promise<string | undefined> {
  try {
    await using file = await openRunFile(path, "read");
    const { size } = await file.stat();
    // The daemon cuts a console that grows too long: it begins anew.
    const seen = size < followed.offsetBytes ? 0 : followed.offsetBytes;
    const from = Math.max(seen, size - readBytesMax);
    const { buffer, bytesRead } = await file.read(Buffer.alloc(size - from), 0, size - from, from);
    followed.offsetBytes = from + bytesRead;
    return buffer.toString("utf8", 0, bytesRead);
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return undefined;
    throw cause;
  }
}

function keep(followed: Followed, line: string): void {
  const entry = parseLogLine(
    line.slice(0, lineCharsMax),
    followed.entries.at(-1)?.atMs ?? 0,
    Date.now(),
  );
  if (entry === undefined) return;
  followed.entries.push(entry);
  followed.keptBytes += bytesOf(entry);
  while (followed.keptBytes > keptBytesMax) {
    const dropped = followed.entries.shift();
    followed.keptBytes -= dropped === undefined ? followed.keptBytes : bytesOf(dropped);
  }
}

function bytesOf({ message, fields }: LogEntry): number {
  return entryBytes + message.length + JSON.stringify(fields).length;
}
