/**
 * Follows the frames that a guest sends on a WebSocket (RFC 6455, 5.2), so that the edge can append
 * a Close frame. Control frames may come between the fragments of a message, so any end of a frame
 * will do.
 */

const closeOpcode = 8;
const finalBit = 0x80;
const maskBit = 0x80;
const maskBytes = 4;
/** LIMIT: first two bytes, eight of extended length, four of mask. */
const headBytesMax = 14;

/** Close codes of RFC 6455, 7.4.1, and of the registry of close codes. */
export const closeCodes = { goingAway: 1001, serviceRestart: 1012 } as const;

/** Makes an unmasked Close frame. `reason` has at most 123 bytes. */
export function closeFrame(code: number, reason: string): Buffer {
  const text = Buffer.from(reason);
  const frame = Buffer.allocUnsafe(4 + text.length);
  frame.writeUInt8(finalBit | closeOpcode, 0);
  frame.writeUInt8(2 + text.length, 1); // the reasons are ours, and far below the 125 that fit
  frame.writeUInt16BE(code, 2);
  text.copy(frame, 4);
  return frame;
}

/** Knows where the frames of one direction end. */
export class WebSocketFrames {
  readonly #head = Buffer.allocUnsafe(headBytesMax);
  #headLength = 0;
  #left = 0;
  #closed = false;

  /** Whether no frame is incomplete, and no Close frame has passed. */
  get mayClose(): boolean {
    return this.#headLength === 0 && this.#left === 0 && !this.#closed;
  }

  /** Follows the next bytes. */
  push(chunk: Buffer): void {
    let at = 0;
    while (at < chunk.length) {
      if (this.#left > 0) {
        const taken = Math.min(this.#left, chunk.length - at);
        this.#left -= taken;
        at += taken;
        continue;
      }
      this.#head.writeUInt8(chunk.readUInt8(at), this.#headLength);
      this.#headLength += 1;
      at += 1;
      if (this.#headLength === this.#wantedBytes()) this.#begin();
    }
  }

  /** The length of the frame's head, as far as it is known so far. */
  #wantedBytes(): number {
    if (this.#headLength < 2) return 2;
    const second = this.#head.readUInt8(1);
    return 2 + extendedBytes(second) + ((second & maskBit) === 0 ? 0 : maskBytes);
  }

  #begin(): void {
    const length = this.#head.readUInt8(1) & ~maskBit;
    if (length === 126) this.#left = this.#head.readUInt16BE(2);
    else if (length === 127) this.#left = Number(this.#head.readBigUInt64BE(2));
    else this.#left = length;
    if ((this.#head.readUInt8(0) & 0x0f) === closeOpcode) this.#closed = true;
    this.#headLength = 0;
  }
}

function extendedBytes(second: number): number {
  const length = second & ~maskBit;
  return length === 126 ? 2 : length === 127 ? 8 : 0;
}
