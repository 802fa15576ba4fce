/** Finds the one sandbox whose id begins with the characters that a person typed. */
import { TorporError } from "@torpor/std";
import type { SandboxInfo } from "./daemon-answers.ts";

/** LIMIT: fewer characters are more often a slip than an id. */
const prefixCharsMin = 3;

/**
 * Finds a sandbox by its id or the beginning of one. @returns undefined when there is none. @throws
 * argument.invalid when `wanted` is too short or ambiguous
 */
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
