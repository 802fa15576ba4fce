/**
 * Follows the envelopes of a Connect stream as they pass, so that one of ours may be put behind them.
 *
 * An envelope is one byte of flags, four of length and so many of payload; the last of a stream has
 * flag 2 and says in JSON how it ended. A client that never sees it reports a broken protocol; one that
 * sees it with an error reports that.
 */

const headBytes = 5;
const endFlag = 2;

export function isConnectStream(contentType: string | undefined): boolean {
  return contentType !== undefined && /^application\/connect\+/i.test(contentType);
}

/** The last envelope of a stream that ends before its time. */
export function endOfStream(code: string, message: string): Buffer {
  const payload = Buffer.from(JSON.stringify({ error: { code, message } }));
  const envelope = Buffer.allocUnsafe(headBytes + payload.length);
  envelope.writeUInt8(endFlag, 0);
  envelope.writeUInt32BE(payload.length, 1);
  payload.copy(envelope, headBytes);
  return envelope;
}

export class ConnectEnvelopes {
  readonly #head = Buffer.allocUnsafe(headBytes);
  #headLength = 0;
  /** Bytes of the payload that are still to come. */
  #left = 0;
  #ended = false;

  /** Whether nothing of an envelope is missing, and the last has not passed. */
  get mayEnd(): boolean {
    return this.#headLength === 0 && this.#left === 0 && !this.#ended;
  }

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
