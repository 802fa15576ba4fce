/**
 * One process that was started through the API: its output, its subscribers, its end.
 *
 *   running ──leader exits──► draining ──output ends, or grace over──► ended
 *
 * Output goes to the current subscribers and into a bounded log, for clients that reconnect and
 * need what they missed. The pipe is always read, so that a process never hangs for want of a
 * listener. A client that disconnects ends its own subscription and nothing else.
 *
 * INVARIANT: memory is bounded by the subscribers' queues, and no subscriber holds up another. The
 * fastest one sets the pace: while all are full the pipes are not read; the agent cuts one that
 * falls behind the others; if none reads for a while, as after a connection died unnoticed, it cuts
 * all that are full.
 */
import { setImmediate } from "node:timers/promises";
import { create } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { type ProcessEvent, ProcessEventSchema } from "@torpor/protocol";
import { systemCode } from "@torpor/std";
import type { AgentLimits } from "./config.ts";
import { EventQueue } from "./event-queue.ts";
import { endEvent } from "./exit-status.ts";
import type { Launched } from "./launch.ts";
import type { LogBudget } from "./log-budget.ts";
import { type OutputKind, OutputLog, type OutputOffsets } from "./output-log.ts";
import type { QuietTimer, QuietTimers } from "./quiet-timers.ts";

/** LIMIT: the largest pieces of output in one event, the sizes that clients expect. */
const pipeChunkBytesMax = 32 << 10;
const ptyChunkBytesMax = 16 << 10;
/** Bytes that an event counts for, in addition to its output. */
const eventBytes = 256;
/** LIMIT: input that was accepted and not yet read by the process. */
const inputBytesMax = 32 << 20;
const subscribersMax = 64;
/**
 * LIMIT: how often the pipes are read after the grace, so that a chatty descendant cannot delay the
 * end for ever.
 */
const drainPassesMax = 64;

/** The events that one client of a process has still to read. */
export type Subscription = EventQueue<ProcessEvent>;

interface Source {
  pause(): unknown;
  resume(): unknown;
}

/** The parts of the agent that a running process uses. */
export interface ProcessContext {
  readonly timers: QuietTimers;
  readonly limits: AgentLimits;
  readonly logBudget: LogBudget;
}

/** A process from its start until its last client has heard how it ended. */
export class ManagedProcess {
  readonly pid: number;
  /** Settles when the process has ended and its subscribers know. */
  readonly ended: Promise<void>;
  readonly #launched: Launched;
  readonly #timers: QuietTimers;
  readonly #limits: AgentLimits;
  readonly #log: OutputLog;
  readonly #subscribers = new Set<Subscription>();
  readonly #sources: Source[] = [];
  readonly #patience: QuietTimer;
  readonly #grace: QuietTimer;
  readonly #graceOver = Promise.withResolvers<void>();
  #lifetime: QuietTimer | undefined;
  #held = false;
  #leaderExited = false;
  #chunksRead = 0;
  #inputBytes = 0;
  #inputClosed = false;
  #end: ProcessEvent | undefined;

  constructor(launched: Launched, { timers, limits, logBudget }: ProcessContext) {
    this.pid = launched.pid;
    this.#launched = launched;
    this.#timers = timers;
    this.#limits = limits;
    this.#log = new OutputLog(this.outputKinds, limits.outputKeptBytes, logBudget);
    this.#patience = timers.after(limits.subscriberPatienceMs, () => this.#cutFullSubscribers());
    this.#patience.cancel();
    this.#grace = timers.after(limits.outputGraceMs, this.#graceOver.resolve);
    this.#grace.cancel();
    this.ended = this.#watch();
  }

  /** The streams that the process prints to. */
  get outputKinds(): readonly OutputKind[] {
    return this.#launched.streams.kind === "terminal" ? ["pty"] : ["stdout", "stderr"];
  }

  /** The offset of the next byte of each stream. */
  get outputOffsets(): OutputOffsets {
    return this.#log.ends;
  }

  get isRunning(): boolean {
    return this.#end === undefined;
  }

  /**
   * Subscribes to all events from now on. The subscription of a process that has ended holds its
   * end only. With `from`, the output since those offsets comes first.
   * @throws ConnectError out_of_range, aborted
   */
  subscribe(from?: OutputOffsets): Subscription {
    if (this.#subscribers.size >= subscribersMax) {
      throw new ConnectError("too many subscribers of this process", Code.Aborted);
    }
    const subscription: Subscription = new EventQueue({ onTaken: () => this.#onTaken() });
    for (const { kind, bytes } of from === undefined ? [] : this.#log.since(from)) {
      subscription.push(outputEvent(kind, bytes), bytes.length + eventBytes);
    }
    if (this.#end === undefined) {
      this.#subscribers.add(subscription);
      this.#balance();
    } else {
      subscription.push(this.#end, eventBytes);
      subscription.end();
    }
    return subscription;
  }

  /** Ends a subscription; the process continues. */
  unsubscribe(subscription: Subscription): void {
    subscription.cut();
    this.#subscribers.delete(subscription);
    this.#balance();
  }

  /**
   * Kills the process and its descendants when the time is over, and ends the starter's stream with
   * the error that this was the reason.
   */
  limitLifetime(lifetimeMs: number, starter: Subscription): void {
    this.#lifetime = this.#timers.after(lifetimeMs, () => {
      starter.end(
        new ConnectError("the process was killed at its deadline", Code.DeadlineExceeded),
      );
      this.killAll();
    });
  }

  /** Kills the process and every descendant, including those that left its group or session. */
  killAll(): void {
    if (this.#end !== undefined) return;
    const { family } = this.#launched;
    if (family === undefined) this.signal("SIGKILL");
    else family.kill();
  }

  /** Sends a signal to the leader and to every process of its group. Does nothing after the end. */
  signal(signal: NodeJS.Signals): void {
    // Once the process has been waited for, its number may belong to another.
    if (this.#end !== undefined) return;
    try {
      process.kill(-this.pid, signal);
    } catch (cause) {
      if (systemCode(cause) !== "ESRCH") throw cause;
    }
  }

  /**
   * Resolves when the process's pipe has taken the bytes.
   * @throws ConnectError internal, aborted
   */
  async writeStdin(bytes: Uint8Array): Promise<void> {
    const { streams } = this.#launched;
    if (streams.kind === "terminal") {
      throw new ConnectError("the process has a terminal; send pty input", Code.Internal);
    }
    const { stdin } = streams;
    if (stdin === undefined || this.#inputClosed || this.#end !== undefined) {
      throw new ConnectError("the standard input is closed", Code.Internal);
    }
    await this.#writeBounded(bytes, async () => {
      const { promise, resolve, reject } = Promise.withResolvers<void>();
      stdin.write(bytes, (error) => (error ? reject(error) : resolve()));
      await promise;
    });
  }

  /** Resolves when the terminal has taken the bytes. @throws ConnectError internal, aborted */
  async writePty(bytes: Uint8Array): Promise<void> {
    const { streams } = this.#launched;
    if (streams.kind === "pipes") {
      throw new ConnectError("the process has no terminal; send stdin input", Code.Internal);
    }
    await this.#writeBounded(bytes, () => streams.pty.write(bytes));
  }

  /**
   * Closes standard input. Safe to repeat.
   * @throws ConnectError unknown for a terminal, which has no end of input.
   */
  closeStdin(): void {
    const { streams } = this.#launched;
    if (streams.kind === "terminal") {
      throw new ConnectError("a terminal cannot be closed; send byte 0x04", Code.Unknown);
    }
    this.#inputClosed = true;
    streams.stdin?.end();
  }

  /**
   * Sets the size of the terminal, in characters.
   * @throws ConnectError internal when the process has no terminal.
   */
  resize(cols: number, rows: number): void {
    const { streams } = this.#launched;
    if (streams.kind === "pipes") {
      throw new ConnectError("the process has no terminal", Code.Internal);
    }
    streams.pty.resize(cols, rows);
  }

  /** Discards the output log, once no client can ask for it any more. */
  forget(): void {
    this.#log.clear();
  }

  async #watch(): Promise<void> {
    const exit = Promise.withResolvers<ReturnType<typeof endEvent>>();
    this.#launched.child.once("exit", (code, signal) => exit.resolve(endEvent(code, signal)));
    const outputEnded = this.#readOutput();
    const end = await exit.promise;
    await this.#outputOrGrace(outputEnded);
    this.#finish(create(ProcessEventSchema, { event: { case: "end", value: end } }));
  }

  /** Starts reading; resolves when every stream has ended. */
  async #readOutput(): Promise<void> {
    const { streams } = this.#launched;
    if (streams.kind === "terminal") {
      await this.#readFrom(streams.pty.reader, "pty", ptyChunkBytesMax);
      return;
    }
    await Promise.all([
      this.#readFrom(streams.stdout, "stdout", pipeChunkBytesMax),
      this.#readFrom(streams.stderr, "stderr", pipeChunkBytesMax),
    ]);
  }

  async #readFrom(
    stream: Source & NodeJS.EventEmitter,
    kind: OutputKind,
    chunkBytesMax: number,
  ): Promise<void> {
    this.#sources.push(stream);
    const { promise, resolve } = Promise.withResolvers<void>();
    stream.on("data", (bytes: Buffer) => {
      this.#chunksRead += 1;
      for (let at = 0; at < bytes.length; at += chunkBytesMax) {
        this.#publishOutput(kind, bytes.subarray(at, at + chunkBytesMax));
      }
    });
    stream.once("close", resolve);
    await promise;
  }

  /**
   * A descendant that outlives the leader may hold its output open for ever, as in `server &`. Its
   * output is still awaited for a grace period, as `> >(tee log)` needs, and read but dropped after
   * that. The period counts only while the pipes are read, so that nothing in them is left behind.
   */
  async #outputOrGrace(outputEnded: Promise<void>): Promise<void> {
    this.#leaderExited = true;
    // The leader ended in time: the deadline does not apply to the descendants it leaves.
    this.#lifetime?.cancel();
    if (!this.#held) this.#grace.restart();
    await Promise.race([outputEnded, this.#graceOver.promise]);
    this.#grace.cancel();
    // After a stall the timer fires before the bytes that have been waiting in the pipes are read:
    // read once more.
    for (let pass = 0; pass < drainPassesMax; pass += 1) {
      const chunksBefore = this.#chunksRead;
      await setImmediate();
      await setImmediate();
      if (this.#chunksRead === chunksBefore) break;
    }
  }

  #publishOutput(kind: OutputKind, bytes: Buffer): void {
    if (this.#end !== undefined) return;
    this.#log.append(kind, bytes);
    if (this.#subscribers.size === 0) return;
    const event = outputEvent(kind, bytes);
    for (const subscriber of this.#subscribers) subscriber.push(event, bytes.length + eventBytes);
    this.#balance();
  }

  #finish(end: ProcessEvent): void {
    this.#patience.cancel();
    this.#end = end;
    for (const subscriber of this.#subscribers) {
      subscriber.push(end, eventBytes);
      subscriber.end();
    }
    this.#subscribers.clear();
    this.#hold(false);
    if (this.#launched.streams.kind === "pipes") this.#launched.streams.stdin?.destroy();
    this.#launched.family?.[Symbol.dispose]();
  }

  #onTaken(): void {
    if (!this.#held) return;
    this.#patience.restart();
    this.#balance();
  }

  /** Cuts subscribers that are too far behind, then reads on if at least one has room. */
  #balance(): void {
    if (this.#end !== undefined) return;
    for (const subscriber of this.#subscribers) {
      const lags = subscriber.queuedBytes > this.#limits.subscriberCutBytes;
      if (lags && this.#subscribers.size > 1) this.#cut(subscriber);
    }
    const all = [...this.#subscribers];
    const allFull = all.every(({ queuedBytes }) => queuedBytes >= this.#limits.subscriberFullBytes);
    this.#hold(all.length > 0 && allFull);
  }

  #hold(held: boolean): void {
    if (held === this.#held) return;
    this.#held = held;
    if (held) {
      for (const source of this.#sources) source.pause();
      this.#patience.restart();
      this.#grace.cancel();
    } else {
      for (const source of this.#sources) source.resume();
      this.#patience.cancel();
      if (this.#leaderExited && this.isRunning) this.#grace.restart();
    }
  }

  #cutFullSubscribers(): void {
    for (const subscriber of this.#subscribers) {
      if (subscriber.queuedBytes >= this.#limits.subscriberFullBytes) this.#cut(subscriber);
    }
    this.#balance();
  }

  #cut(subscriber: Subscription): void {
    this.#subscribers.delete(subscriber);
    subscriber.cut(new ConnectError("the client reads too slowly", Code.Aborted));
  }

  async #writeBounded(bytes: Uint8Array, write: () => Promise<void>): Promise<void> {
    if (this.#inputBytes + bytes.length > inputBytesMax) {
      throw new ConnectError("the process does not read its input", Code.Aborted);
    }
    this.#inputBytes += bytes.length;
    try {
      await write();
    } catch (cause) {
      throw new ConnectError("the process did not take the input", Code.Internal, {}, [], cause);
    } finally {
      this.#inputBytes -= bytes.length;
    }
  }
}

function outputEvent(kind: OutputKind, bytes: Uint8Array): ProcessEvent {
  const output = { case: kind, value: bytes };
  return create(ProcessEventSchema, { event: { case: "data", value: { output } } });
}
