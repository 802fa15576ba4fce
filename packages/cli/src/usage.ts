/**
 * Mistakes in the command line itself: they exit with 2, as in shells and most tools, and are
 * reported before any request to the daemon.
 */
import { TorporError } from "@torpor/std";

/** Makes the error for a mistake in the words of the command. */
export function usageError(message: string, advice: string): TorporError {
  return new TorporError("argument.invalid", message, { advice, details: { usage: true } });
}

/** Whether an error is a mistake in the command line. */
export function isUsageError(error: TorporError): boolean {
  return error.details["usage"] === true;
}

/** Collects the values of a repeated option: `--metadata A=1 --metadata B=2`. */
export function collect(value: string, previous: readonly string[] = []): readonly string[] {
  return [...previous, value];
}

/**
 * Makes a parser for an option or argument that counts something. It throws a usage error for
 * anything but a whole number of at least `min`.
 */
export function wholeNumber(min: number): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= min) return value;
    throw usageError(`"${text}" is no whole number from ${min} on`, "Write digits only.");
  };
}

/** Parses `K=V` words; a later one wins. @throws usage error without a key or `=` */
export function parsePairs(
  words: readonly string[] | undefined,
  option: string,
): Readonly<Record<string, string>> {
  return Object.fromEntries((words ?? []).map((word) => splitPair(word, option)));
}

/**
 * Like `parsePairs`, but a bare `K` takes its value from our own environment, so that a secret need
 * not be in the command line, where every user can read it.
 */
export function parseEnv(
  words: readonly string[] | undefined,
  own: NodeJS.ProcessEnv,
): Readonly<Record<string, string>> {
  return Object.fromEntries(
    (words ?? []).map((word) => {
      if (word.includes("=")) return splitPair(word, "--env");
      const value = Object.hasOwn(own, word) ? own[word] : undefined;
      if (value !== undefined) return [word, value] as const;
      throw usageError(
        `--env ${word} has no value, and ${word} is not set here`,
        `Write --env ${word}=VALUE, or set ${word} first.`,
      );
    }),
  );
}

function splitPair(word: string, option: string): readonly [string, string] {
  const at = word.indexOf("=");
  if (at < 1) {
    throw usageError(
      `${option} ${word} is not of the form KEY=VALUE`,
      `Write ${option} KEY=VALUE.`,
    );
  }
  return [word.slice(0, at), word.slice(at + 1)];
}

/**
 * Returns the command after the options, without the `--` that may precede it.
 * @throws usage error when an option follows the sandbox id.
 */
export function parseCommandWords(words: readonly string[]): readonly string[] {
  const [first, ...rest] = words;
  if (first === "--") return rest;
  if (first?.startsWith("-") === true) {
    throw usageError(
      `${first} comes too late to be an option and is no command`,
      "Put options before the sandbox id, and `--` before a command.",
    );
  }
  return words;
}

/** Treats one word with spaces as a line for the shell; anything else is the command as it is. */
export function shellArgv(words: readonly [string, ...string[]]): readonly [string, ...string[]] {
  const [first, ...rest] = words;
  return rest.length === 0 && /\s/.test(first) ? ["/bin/bash", "-l", "-c", first] : words;
}
