/**
 * Many sandboxes requested at the same moment, as by a program that starts as many jobs. Each
 * request has an answer before the published clients give up: a sandbox that works, or a refusal
 * that says that there is too much to do. No spare is ready.
 */
import { freemem } from "node:os";
import { Sandbox } from "e2b";
import { type Row, atMost, quantile } from "./row.ts";
import { type SdkDaemon, openSdkDaemon, parseSandbox, requestSandbox } from "./sdk-daemon.ts";

const sandboxes = 50;
/** The timeout of the published clients for one request. */
const patienceMs = 60_000;
/** HTTP "Too Many Requests". */
const refusal = 429;
/** LIMIT: the memory of each guest's own, including the emulator's code cache. */
const ownMemoryMiB = 200;

interface Answer {
  readonly kind: "made" | "refused" | "neither";
  readonly tookSeconds: number;
  readonly said: string;
}

/** Measures one burst; no rows without enough memory. */
export async function measureManyCreates(): Promise<readonly Row[]> {
  if (freemem() / 2 ** 20 < sandboxes * ownMemoryMiB) {
    process.stderr.write(
      `many-creates: no rows without ${sandboxes * ownMemoryMiB} MiB of memory\n`,
    );
    return [];
  }
  await using undo = new AsyncDisposableStack();
  const daemon = await openSdkDaemon(undo);
  // The daemon's first create is slower and not part of the burst.
  const first = await ask(daemon);
  if (first.kind !== "made") throw new Error(first.said);
  const answers = await Promise.all(Array.from({ length: sandboxes }, () => ask(daemon)));
  const made = answers.filter(({ kind }) => kind === "made");
  const neither = answers.filter(({ kind }) => kind === "neither");
  for (const { said } of neither) process.stderr.write(`many-creates: ${said}\n`);
  const times = answers.map(({ tookSeconds }) => tookSeconds);
  return [
    { row: "creates at once that made a sandbox", value: made.length, unit: "of 50" },
    { row: "creates at once, half of the answers", value: quantile(times, 0.5), unit: "s" },
    atMost("creates at once, p99 of the answers", quantile(times, 0.99), "s", 60),
    atMost("creates at once without sandbox or refusal", neither.length, "of 50", 0),
    atMost("creates at once whose sandbox does not work", await countBroken(made), "of 50", 0),
  ];
}

async function ask(daemon: SdkDaemon): Promise<Answer> {
  const startedMonoMs = performance.now();
  const [result] = await Promise.allSettled([exchange(daemon)]);
  const tookSeconds = (performance.now() - startedMonoMs) / 1000;
  if (result.status === "rejected") {
    return { kind: "neither", tookSeconds, said: String(result.reason) };
  }
  const { status, said } = result.value;
  const kind = status === 201 ? "made" : status === refusal ? "refused" : "neither";
  return { kind, tookSeconds, said };
}

async function exchange(daemon: SdkDaemon): Promise<{ status: number; said: string }> {
  const response = await requestSandbox(daemon, patienceMs);
  return { status: response.status, said: await response.text() };
}

async function countBroken(made: readonly Answer[]): Promise<number> {
  let broken = 0;
  for (const { said } of made) {
    const sandbox = await Sandbox.connect(parseSandbox(said).id);
    const [result] = await Promise.allSettled([sandbox.commands.run("true")]);
    if (result.status === "rejected") broken += 1;
  }
  return broken;
}
