/**
 * Extracts the kernel proper (an ELF file) from the compressed image that Debian ships (a bzImage),
 * for a VMM that starts nothing else.
 *
 * The image says where it lies: its header has held the offset and length of the compressed part
 * since boot protocol 2.08 (Linux Documentation/arch/x86/boot). Debian's cloud kernel is packed
 * with LZ4, others with xz, zstd or gzip; any other format is refused by its first bytes.
 */
import { readFile, rm, writeFile } from "node:fs/promises";
import { gunzipSync, zstdDecompressSync } from "node:zlib";
import { type Deadline, TorporError, runCommand } from "@torpor/std";
import { lz4LegacyMagic, unpackLz4Legacy } from "./lz4.ts";

const header = {
  setupSectors: 0x1f1,
  magic: 0x202,
  protocol: 0x206,
  payloadOffset: 0x248,
  payloadLength: 0x24c,
  endBytes: 0x250,
} as const;
const headerMagic = "HdrS";
/** The first version whose header says where the compressed kernel is. */
const protocolMin = 0x0208;
const sectorBytes = 512;
/** The number that a header with a zero here means. */
const usualSetupSectors = 4;
/** The unpacked length follows the payload, unless the format has it inside. */
const lengthBytes = 4;
const elfMagic = Buffer.from("\x7fELF", "latin1");

type Compression = "gzip" | "lz4" | "xz" | "zstd";

const compressionMagics: Readonly<Record<Compression, Buffer>> = {
  gzip: Buffer.from([0x1f, 0x8b]),
  lz4: lz4LegacyMagic,
  xz: Buffer.from([0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00]),
  zstd: Buffer.from([0x28, 0xb5, 0x2f, 0xfd]),
};

const unpackers: Readonly<Record<Exclude<Compression, "xz">, (bytes: Buffer) => Buffer>> = {
  gzip: gunzipSync,
  lz4: unpackLz4Legacy,
  zstd: zstdDecompressSync,
};

/** The compressed part of a kernel image. */
export interface CompressedKernel {
  readonly compression: Compression;
  readonly bytes: Buffer;
}

/**
 * Finds the compressed part. @throws command.failed when `image` is no bzImage, or holds a kernel
 * in another format.
 */
export function findCompressedKernel(image: Buffer): CompressedKernel {
  const isBzImage =
    image.length >= header.endBytes &&
    image.toString("latin1", header.magic, header.magic + headerMagic.length) === headerMagic;
  if (!isBzImage) throw unusable("is no bzImage");
  const protocol = image.readUInt16LE(header.protocol);
  if (protocol < protocolMin) throw unusable(`has boot protocol 0x${protocol.toString(16)}`);
  const setupSectors = image.readUInt8(header.setupSectors) || usualSetupSectors;
  const start = (setupSectors + 1) * sectorBytes + image.readUInt32LE(header.payloadOffset);
  const end = start + image.readUInt32LE(header.payloadLength);
  if (end > image.length) throw unusable("ends before its compressed kernel does");
  const payload = image.subarray(start, end);
  for (const [compression, magic] of Object.entries(compressionMagics)) {
    if (!payload.subarray(0, magic.length).equals(magic)) continue;
    const bytes = compression === "gzip" ? payload : payload.subarray(0, -lengthBytes);
    return { compression: compression as Compression, bytes };
  }
  throw unusable(`is compressed in a way that begins ${payload.toString("hex", 0, 6)}`);
}

/** Writes the kernel in the image at `imagePath` to a new file. @throws command.failed */
export async function extractVmlinux(
  imagePath: string,
  targetPath: string,
  deadline: Deadline,
): Promise<void> {
  const { compression, bytes } = findCompressedKernel(await readFile(imagePath));
  if (compression === "xz") {
    const packed = `${targetPath}.xz`; // xz makes the name without it
    await writeFile(packed, bytes);
    await runCommand(["xz", "--decompress", packed], deadline);
  } else {
    await writeFile(targetPath, unpackers[compression](bytes));
  }
  const kernel = await readFile(targetPath);
  if (kernel.subarray(0, elfMagic.length).equals(elfMagic)) return;
  await rm(targetPath);
  throw unusable("holds something else than an ELF file");
}

function unusable(what: string): TorporError {
  return new TorporError("command.failed", `Debian's kernel image ${what}`, { effect: "none" });
}
