/** The options that limit how long a new sandbox may live; every verb that makes one has them. */
import { type Command, Option } from "commander";
import type { OnTimeout } from "./daemon-answers.ts";
import type { LifetimeRequest } from "./daemon-client.ts";
import { type Duration, parseDuration, toMs } from "./duration.ts";

/** The options as parsed. */
export interface LifetimeOptions {
  readonly timeout?: Duration;
  readonly onTimeout?: OnTimeout;
  readonly idleTimeout?: Duration;
  readonly maxRun?: Duration;
}

/** Adds the options to a verb. */
export function addLifetimeOptions(command: Command): Command {
  return command
    .option("--timeout <time>", "end it after 90s, 5m, 2h or 1d of running", parseDuration)
    .addOption(
      new Option("--on-timeout <what>", "what happens then; kill unless said").choices([
        "kill",
        "pause",
      ]),
    )
    .option("--idle-timeout <time>", "put it to sleep when unused for so long", parseDuration)
    .option("--max-run <time>", "remove it after so much running altogether", parseDuration);
}

/** Converts the options to what the daemon is sent. */
export function lifetimeOf(options: LifetimeOptions): LifetimeRequest {
  return {
    timeoutMs: toMs(options.timeout),
    onTimeout: options.onTimeout,
    idleTimeoutMs: toMs(options.idleTimeout),
    maxRunMs: toMs(options.maxRun),
  };
}
