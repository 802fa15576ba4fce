/**
 * Decodes the path in the file name of a multipart upload.
 *
 * COMPAT: clients put paths there, and each escapes them in its own way, so that the received text
 * may stand for several paths. E2B's JS SDK (2.51, by undici and the browsers' standard) writes
 * %22, %0A and %0D for a quote and line breaks, and leaves those texts and backslashes as they are.
 * Its Python SDK (2.63, by httpx 0.28) escapes all control characters like that, and doubles
 * backslashes. Other clients may do either, or put a backslash before a quote. Escapes with one
 * meaning are undone; all others are refused, because a file must not be written under another name
 * than the client asked for.
 */
import { Code, ConnectError } from "@connectrpc/connect";
import type { PartFilename } from "./multipart.ts";

interface Escaping {
  /** Texts that may stand for a character or for themselves. */
  readonly ambiguous: RegExp;
  readonly undo: (name: string) => string;
}

const asItIs = (name: string): string => name;
const javascript: Escaping = { ambiguous: /%(?:22|0A|0D)/, undo: asItIs };
const python: Escaping = {
  // Also a single backslash.
  ambiguous: /%(?:22|0[0-9A-F]|1[0-9A-F])|(?<!\\)(?:\\\\)*\\(?!\\)/,
  undo: (name) => name.replaceAll("\\\\", "\\"),
};
const unknown: Escaping = { ambiguous: /%(?:22|0[AD])|\\\\|\\$/i, undo: asItIs };

/**
 * The path that the client meant.
 * @throws ConnectError invalid_argument for a name that may stand for several paths
 */
export function uploadName(filename: PartFilename, userAgent: string | undefined): string {
  if ("decoded" in filename) return filename.decoded;
  const { ambiguous, undo } = escapingOf(userAgent ?? "");
  if (!ambiguous.test(filename.given)) return undo(filename.given);
  throw new ConnectError(
    `the file name '${filename.given}' may stand for several paths: upload this file by itself, with its path in the query`,
    Code.InvalidArgument,
  );
}

function escapingOf(userAgent: string): Escaping {
  if (userAgent.startsWith("e2b-js-sdk/")) return javascript;
  return userAgent.startsWith("e2b-python-sdk/") ? python : unknown;
}
