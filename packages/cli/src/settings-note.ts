/** Reports which of our settings a running daemon ignores, and how it would use them. */
import { type Environment, differingSettings } from "@torpor/storage";
import type { Output } from "./output.ts";

/**
 * Notes the differences. @param there The daemon's settings. @param alsoUnset As for
 * `differingSettings`.
 */
export function noteDifferences(
  output: Output,
  env: Environment,
  there: Environment,
  alsoUnset: boolean,
): void {
  const differences = differingSettings(env, there, alsoUnset);
  if (differences.length === 0) return;
  output.note("The daemon that runs was started with other settings:");
  output.noteTable(
    differences.map(({ name, here, there: theirs }) => [
      `  ${name}`,
      `here ${here ?? "not set"},`,
      `there ${theirs ?? "not set"}`,
    ]),
  );
  output.note("`torpor down && torpor up` applies those of here; sandboxes go on meanwhile.");
}
