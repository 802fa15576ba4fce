/**
 * The consoles of guests as log entries: the agent writes lines of JSON, and the kernel and the
 * guest's own start write text.
 *
 * A console is a file that is removed when the sandbox is paused, so the daemon follows it and
 * keeps the newest entries in memory. The end of the file is then kept on disk and read once more:
 * the entries of the last run are there for a paused sandbox, even in another daemon. Older entries
 * go with the daemon.
 *
 * SAFETY: the guest is hostile and may write anything, its clock included. Every bound here is the
 * host's, and an entry is never older than the one before it nor newer than now.
 */
import { join } from "node:path";
import { ignoreFailure, systemCode } from "@torpor/std";
import type { SandboxFolder } from "@torpor/storage";
import { openRunFile, runFiles } from "@torpor/vmm";
import type { ApiSandbox } from "./api/api-host.ts";
import { lastWordsBytesMax, readLastWords } from "./last-words.ts";
import { type LogEntry, parseLogLine } from "./guest-log-line.ts";

const lookEveryMs = 5_000;
/** LIMITS of what is kept per sandbox, and of what is read at once. */
const keptBytesMax = 256 * 1024;
const readBytesMax = 256 * 1024;
const lineCharsMax = 4_096;
/** An entry takes this much memory beside its text. */
const entryBytes = 200;

interface Followed {
  generation: number;
  offsetBytes: number;
  /** The beginning of a line whose end has not been written yet. */
  rest: string;
  entries: LogEntry[];
  keptBytes: number;
  reading: Promise<void>;
}

/** Follows the consoles of running sandboxes, until disposed. */
export class GuestLogs implements Disposable {
  readonly #followed = new WeakMap<ApiSandbox, Followed>();
  readonly #timer: NodeJS.Timeout;

  /** Starts reading the consoles at an interval. */
  constructor(all: () => readonly ApiSandbox[]) {
    this.#timer = setInterval(() => {
      for (const sandbox of all()) {
        if (sandbox.run !== undefined) void ignoreFailure("read again", this.of(sandbox));
      }
    }, lookEveryMs);
    this.#timer.unref();
  }

  /** The entries of a sandbox up to this moment, oldest first. */
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

/**
 * The end of a console whose run is over. If it was kept whole, reading continues where it last
 * stopped.
 */
async function readKept(folder: SandboxFolder, followed: Followed): Promise<string | undefined> {
  const last = await readLastWords(folder, runFiles.console);
  if (last === undefined) return undefined;
  const { bytes, generation } = last;
  // Entries of an earlier run have been read already, unless there are none at all.
  if (generation !== followed.generation) {
    return followed.entries.length === 0 ? bytes.toString() : undefined;
  }
  const isWhole = bytes.length < lastWordsBytesMax && bytes.length >= followed.offsetBytes;
  if (!isWhole && followed.offsetBytes > 0) return undefined;
  const fresh = bytes.subarray(followed.offsetBytes).toString();
  followed.offsetBytes = bytes.length;
  return fresh;
}

/**
 * The text that was appended since the last read, or the end of it if it is long; undefined if
 * there is no file.
 */
async function readNew(path: string, followed: Followed): Promise<string | undefined> {
  try {
    await using file = await openRunFile(path, "read");
    const { size } = await file.stat();
    // The daemon truncates a console that grows too long, which then starts from 0.
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
