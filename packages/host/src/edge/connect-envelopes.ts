/**
 * Follows the envelopes of a Connect stream as they pass, so that the edge can append one of its
 * own.
 *
 * An envelope is one byte of flags, four bytes of length and that many bytes of payload; the last
 * envelope of a stream has flag 2 and says in JSON how it ended. A client that never receives it
 * reports a broken protocol; a client that receives one with an error reports that error.
 */

const headBytes = 5;
const endFlag = 2;

/** Whether an answer with this content type consists of envelopes. */
export function isConnectStream(contentType: string | undefined): boolean {
  return contentType !== undefined && /^application\/connect\+/i.test(contentType);
}

/**
 * Makes the last envelope of a stream that is ended early. `code` is a code of Connect, such as
 * `unavailable`.
 */
export function endOfStream(code: string, message: string): Buffer {
  const payload = Buffer.from(JSON.stringify({ error: { code, message } }));
  const envelope = Buffer.allocUnsafe(headBytes + payload.length);
  envelope.writeUInt8(endFlag, 0);
  envelope.writeUInt32BE(payload.length, 1);
  payload.copy(envelope, headBytes);
  return envelope;
}

/** Knows where the envelopes of one stream end. */
export class ConnectEnvelopes {
  readonly #head = Buffer.allocUnsafe(headBytes);
  #headLength = 0;
  /** Bytes of the payload that have not passed yet. */
  #left = 0;
  #ended = false;

  /** Whether no envelope is incomplete, and the stream's last one has not passed. */
  get mayEnd(): boolean {
    return this.#headLength === 0 && this.#left === 0 && !this.#ended;
  }

  /** Follows the next bytes of the stream. */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left > 0) {
        const taken = Math.min(this.#left, chunk.length - at);
        this.#left -= taken;
        at += taken;
        continue;
      }
      const copied = chunk.copy(
        this.#head,
        this.#headLength,
        at,
        at + headBytes - this.#headLength,
      );
      this.#headLength += copied;
      at += copied;
      if (this.#headLength === headBytes) this.#begin();
    }
  }

  #begin(): void {
    this.#headLength = 0;
    this.#left = this.#head.readUInt32BE(1);
    if ((this.#head.readUInt8(0) & endFlag) !== 0) this.#ended = true;
  }
}
