/**
 * Where the body of an HTTP/1 message ends (RFC 9112, 6.3). Pure, and the only place that decides
 * it: it frames what the edge sends to a guest, and tells how to read what a guest sends.
 *
 * Stricter than the RFC where two readers could differ: a length that is given twice, even with the
 * same value, a length beside a transfer coding, a coding other than `chunked`, and a coding in
 * HTTP/1.0 are refused.
 */
import { type Fields, SyntaxFault, valuesOf } from "./http-syntax.ts";

/** How the end of a body is found. */
export type Framing =
  | { readonly kind: "none" }
  | { readonly kind: "length"; readonly bytes: number }
  | { readonly kind: "chunked" }
  /** The body ends when the connection is closed; answers only. */
  | { readonly kind: "close" };

/** The framing of a message without a body. */
export const noBody: Framing = { kind: "none" };

/** LIMIT: digits of a length; 15 are 888 TiB, and a number holds them exactly. */
const lengthPattern = /^\d{1,15}$/;

/**
 * The framing that the fields of a message declare. `version` is that of HTTP, such as "1.1".
 * @throws SyntaxFault
 */
export function declaredFraming(fields: Fields, version: string): Framing {
  const lengths = valuesOf(fields, "content-length");
  const codings = valuesOf(fields, "transfer-encoding");
  const [length] = lengths;
  if (codings.length > 0) {
    if (length !== undefined) throw new SyntaxFault("it has a length and a transfer coding");
    if (version !== "1.1") throw new SyntaxFault(`HTTP/${version} has no transfer codings`);
    if (codings.length > 1 || codings[0]?.toLowerCase() !== "chunked") {
      throw new SyntaxFault("its transfer coding is not chunked");
    }
    return { kind: "chunked" };
  }
  if (length === undefined) return noBody;
  if (lengths.length > 1) throw new SyntaxFault("it has more than one Content-Length");
  if (!lengthPattern.test(length)) throw new SyntaxFault("its Content-Length is no number");
  return { kind: "length", bytes: Number(length) };
}

/** An answer's status line, and the method of its request. */
export interface AnsweredTo {
  readonly method: string;
  readonly status: number;
  readonly version: string;
}

/** How an answer ends, and who says so. */
export interface AnswerFraming {
  readonly framing: Framing;
  /**
   * Whether the answer's own fields say where it ends, and not a rule about method or status. A
   * guest may not know the rule: if it sends a body all the same, that would begin the next answer
   * on the connection.
   */
  readonly endsByItself: boolean;
}

/** The framing of a final answer. @throws SyntaxFault */
export function answerFraming(
  fields: Fields,
  { method, status, version }: AnsweredTo,
): AnswerFraming {
  const declared = declaredFraming(fields, version);
  const isEmpty = declared.kind === "length" && declared.bytes === 0;
  if (method === "HEAD") return { framing: noBody, endsByItself: isEmpty };
  if (status === 204 || status === 304) {
    return { framing: noBody, endsByItself: isEmpty || declared.kind === "none" };
  }
  if (declared.kind === "none") return { framing: { kind: "close" }, endsByItself: false };
  return { framing: declared, endsByItself: true };
}
