/** `torpor pause` and `torpor resume`: sleep and wake. */
import type { Command } from "commander";
import type { StepTiming } from "@torpor/std";
import type { Changed } from "../daemon-answers.ts";
import { type Duration, parseDuration, toMs } from "../duration.ts";
import { type Interrupt, interruptible } from "../interrupt.ts";
import { timingRows } from "../server-timing.ts";
import { type Session, forEach } from "../session.ts";

interface SleepVerb {
  readonly name: "pause" | "resume";
  readonly description: string;
  readonly busy: string;
  /** The state afterwards, as the verb prints it. */
  readonly state: string;
  readonly addOptions: (command: Command) => Command;
  readonly change: (session: Session, id: string, options: SleepOptions) => Promise<Changed>;
}

interface SleepOptions {
  readonly timing?: boolean;
  readonly timeout?: Duration;
  readonly previous?: boolean;
}

const pause: SleepVerb = {
  name: "pause",
  description: "put sandboxes to sleep: memory and disk are kept, nothing runs",
  busy: "pausing",
  state: "paused",
  addOptions: (command) => command,
  change: (session, id) => session.client.pause(id),
};

const resume: SleepVerb = {
  name: "resume",
  description: "wake sandboxes: their processes go on where they were",
  busy: "resuming",
  state: "running",
  addOptions: (command) =>
    command
      .option("--timeout <time>", "let it run so long: 90s, 5m, 2h, 1d, or never", parseDuration)
      .option("--previous", "go back to the snapshot before the newest; what came after is lost"),
  change: (session, id, { timeout, previous }) =>
    session.client.resume(id, { timeoutMs: toMs(timeout), previous }),
};

/** Adds `torpor pause` and `torpor resume` to the program. */
export function addPauseAndResume(program: Command, session: Session): void {
  for (const verb of [pause, resume]) {
    const command = program
      .command(verb.name)
      .description(verb.description)
      .argument("<id...>", "sandboxes, by the first characters of their ids");
    verb
      .addOptions(command)
      .option("--timing", "print how long each step took, to standard error")
      .option("--json", "print what was done as JSON")
      .action(async (ids: readonly string[], options: SleepOptions) =>
        changeAll(session, verb, ids, options),
      );
  }
}

function wentBack({ previous }: SleepOptions): string {
  return previous === true ? ", as of the snapshot before; what came after it is lost" : "";
}

interface Done {
  readonly id: string;
  readonly changed: boolean;
  readonly timings: readonly StepTiming[];
}

async function changeAll(
  session: Session,
  verb: SleepVerb,
  ids: readonly string[],
  options: SleepOptions,
): Promise<void> {
  const { output } = session;
  const sandboxes = await session.findAll(ids);
  const all: Done[] = [];
  const work = async (interrupt: Interrupt): Promise<number> => {
    await forEach(session, interrupt, sandboxes, async ({ id }) => {
      const change = verb.change(session, id, options);
      const done = await session.awaitDaemon(interrupt, `${verb.busy} ${id}`, change);
      all.push({ id, ...done });
      if (session.asJson) return;
      if (done.changed) output.print(`${id} ${verb.state}${wentBack(options)}`);
      else output.print(`${id} was ${verb.state} already`);
      if (options.timing === true) output.noteTable(timingRows(done.timings));
    });
    return 0;
  };
  try {
    session.exitCode = await interruptible(output, work);
  } finally {
    if (session.asJson) output.printJson(all);
  }
}
