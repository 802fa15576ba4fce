/** `torpor pause` and `torpor resume`: sleep and wake. */
import type { Command } from "commander";
import type { StepTiming } from "@torpor/std";
import type { Changed } from "../daemon-answers.ts";
import { timingRows } from "../server-timing.ts";
import { type Session, forEach } from "../session.ts";

interface SleepVerb {
  readonly name: "pause" | "resume";
  readonly description: string;
  readonly busy: string;
  /** The state afterwards, as it is told. */
  readonly state: string;
  readonly change: (session: Session, id: string) => Promise<Changed>;
}

const pause: SleepVerb = {
  name: "pause",
  description: "put sandboxes to sleep: memory and disk are kept, nothing runs",
  busy: "pausing",
  state: "paused",
  change: (session, id) => session.client.pause(id),
};

const resume: SleepVerb = {
  name: "resume",
  description: "wake sandboxes: their processes go on where they were",
  busy: "resuming",
  state: "running",
  change: (session, id) => session.client.resume(id),
};

interface SleepOptions {
  readonly timing?: boolean;
}

export function addPauseAndResume(program: Command, session: Session): void {
  for (const verb of [pause, resume]) {
    program
      .command(verb.name)
      .description(verb.description)
      .argument("<id...>", "sandboxes, by the first characters of their ids")
      .option("--timing", "print how long each step took, to standard error")
      .option("--json", "print what was done as JSON")
      .action(async (ids: readonly string[], options: SleepOptions) =>
        changeAll(session, verb, ids, options),
      );
  }
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
  try {
    await forEach(session, sandboxes, async ({ id }) => {
      const done = await output.busy(`${verb.busy} ${id}`, verb.change(session, id));
      all.push({ id, ...done });
      if (session.asJson) return;
      if (done.changed) output.print(`${id} ${verb.state}`);
      else output.print(`${id} was ${verb.state} already`);
      if (options.timing === true) output.noteTable(timingRows(done.timings));
    });
  } finally {
    if (session.asJson) output.printJson(all);
  }
}
