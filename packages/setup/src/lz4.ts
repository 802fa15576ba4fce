/**
 * Unpacks LZ4's legacy format, in which kernels are packed: Node has no LZ4, and Debian's cloud
 * kernels use it. Source: lz4 doc/lz4_Frame_format and lz4_Block_format.
 *
 * A file is a magic number and blocks, each a length and that many bytes. A block is a row of
 * sequences: a token with two lengths, literal bytes, and how far back to copy from.
 */
import { TorporError } from "@torpor/std";

/** The first four bytes of a file in this format. */
export const lz4LegacyMagic = Buffer.from([0x02, 0x21, 0x4c, 0x18]);

/** LIMIT: the format's, for the unpacked size of a block. */
const blockBytesMax = 8 << 20;
/** A length in a token that continues in the bytes behind it. */
const longLength = 15;
const matchBytesMin = 4;

/** Unpacks all blocks. @throws command.failed when `packed` is in another format, or damaged. */
export function unpackLz4Legacy(packed: Buffer): Buffer {
  if (!packed.subarray(0, lz4LegacyMagic.length).equals(lz4LegacyMagic)) throw damaged("no LZ4");
  const blocks: Buffer[] = [];
  for (let at = lz4LegacyMagic.length; at < packed.length;) {
    if (at + 4 > packed.length) throw damaged("an LZ4 block without its length");
    const length = packed.readUInt32LE(at);
    at += 4;
    if (at + length > packed.length) throw damaged("an LZ4 block that ends early");
    blocks.push(unpackBlock(packed.subarray(at, at + length)));
    at += length;
  }
  return Buffer.concat(blocks);
}

function unpackBlock(block: Buffer): Buffer {
  const out = Buffer.alloc(blockBytesMax);
  let from = 0;
  let to = 0;
  const readLength = (first: number): number => {
    let length = first;
    if (first !== longLength) return length;
    for (let more = 255; more === 255; from += 1) {
      more = block[from] ?? 0;
      length += more;
    }
    return length;
  };
  while (from < block.length) {
    const token = block[from++] ?? 0;
    const literalBytes = readLength(token >> 4);
    if (from + literalBytes > block.length || to + literalBytes > out.length) {
      throw damaged("an LZ4 block with too long a row of bytes");
    }
    block.copy(out, to, from, from + literalBytes);
    from += literalBytes;
    to += literalBytes;
    if (from >= block.length) break; // the last sequence has nothing to copy
    const distance = (block[from] ?? 0) | ((block[from + 1] ?? 0) << 8);
    from += 2;
    const matchBytes = readLength(token & 0xf) + matchBytesMin;
    if (distance === 0 || distance > to || to + matchBytes > out.length) {
      throw damaged("an LZ4 block that copies from where nothing is");
    }
    // The copied bytes may be ones that this very copy has just written.
    if (distance >= matchBytes) out.copy(out, to, to - distance, to - distance + matchBytes);
    else for (let i = 0; i < matchBytes; i += 1) out[to + i] = out[to + i - distance] ?? 0;
    to += matchBytes;
  }
  return out.subarray(0, to);
}

function damaged(what: string): TorporError {
  return new TorporError("command.failed", `unpacking the kernel found ${what}`, {
    effect: "none",
  });
}
