/** Finds the one sandbox that a person means by the first characters of its id. */
import { TorporError } from "@torpor/std";
import type { SandboxInfo } from "./daemon-answers.ts";

/** LIMIT: fewer characters are more often a slip than a name. */
const prefixCharsMin = 3;

/** @returns undefined when there is none. @throws argument.invalid when too short or ambiguous */
export function findSandbox(
  wanted: string,
  sandboxes: readonly SandboxInfo[],
): SandboxInfo | undefined {
  const exact = sandboxes.find(({ id }) => id === wanted);
  if (exact !== undefined) return exact;
  if (wanted.length < prefixCharsMin) {
    throw new TorporError("argument.invalid", `"${wanted}" is too short for a sandbox id`, {
      advice: `Give at least ${prefixCharsMin} characters of an id from \`torpor ls\`.`,
    });
  }
  const [match, ...others] = sandboxes.filter(({ id }) => id.startsWith(wanted));
  if (match !== undefined && others.length > 0) {
    const candidates = [match, ...others].map(({ id }) => id).join(", ");
    throw new TorporError("argument.invalid", `${wanted} may mean any of ${candidates}`, {
      advice: "Give more characters of the id.",
    });
  }
  return match;
}
