/**
 * Where the body of a message of HTTP/1 ends (RFC 9112, 6.3). Pure, and the only place that decides it:
 * what is sent to a guest is framed by what is said here, and what a guest sends is read by it.
 *
 * Stricter than the RFC where two readers could differ: a length that is given twice, be it the same, a
 * length beside a coding, a coding but `chunked`, and a coding of HTTP/1.0 are refused.
 */
import { type Fields, SyntaxFault, valuesOf } from "./http-syntax.ts";

export type Framing =
  | { readonly kind: "none" }
  | { readonly kind: "length"; readonly bytes: number }
  | { readonly kind: "chunked" }
  /** Until the connection is closed; answers only. */
  | { readonly kind: "close" };

export const noBody: Framing = { kind: "none" };

/** LIMIT: digits of a length; 15 are 888 TiB, and exact in a number. */
const lengthPattern = /^\d{1,15}$/;

/** What the fields of a message say. @throws SyntaxFault */
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

export interface AnsweredTo {
  readonly method: string;
  readonly status: number;
  readonly version: string;
}

export interface AnswerFraming {
  readonly framing: Framing;
  /**
   * Whether the answer ends where its own fields say, and not by a rule about method or status, which a
   * guest may not know: a body that it sends all the same would begin the next answer on the connection.
   */
  readonly endsByItself: boolean;
}

/** For an answer that is no interim one. @throws SyntaxFault */
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
