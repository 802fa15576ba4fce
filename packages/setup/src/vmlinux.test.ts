import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { glob, mkdtempDisposable, readFile, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync, zstdCompressSync } from "node:zlib";
import { Deadline } from "@torpor/std";
import { defaultCacheFolder } from "@torpor/storage";
import { unpackLz4Legacy } from "./lz4.ts";
import { extractVmlinux, findCompressedKernel } from "./vmlinux.ts";

const elf = Buffer.concat([Buffer.from("\x7fELF", "latin1"), Buffer.alloc(10_000, "kernel ")]);

/** A bzImage with `payload` and, where the kernel's build adds it, its unpacked length. */
function bzImage(payload: Buffer, isLengthAdded: boolean, protocol = 0x020f): Buffer {
  const setupSectors = 3;
  const before = 700; // of code that unpacks
  const body = Buffer.concat([payload, Buffer.alloc(isLengthAdded ? 4 : 0, 0xaa)]);
  const head = Buffer.alloc((setupSectors + 1) * 512 + before);
  head.writeUInt8(setupSectors, 0x1f1);
  head.write("HdrS", 0x202);
  head.writeUInt16LE(protocol, 0x206);
  head.writeUInt32LE(before, 0x248);
  head.writeUInt32LE(body.length, 0x24c);
  return Buffer.concat([head, body, Buffer.alloc(333)]);
}

async function extract(image: Buffer): Promise<Buffer> {
  await using folder = await mkdtempDisposable(join(tmpdir(), "torpor-vmlinux-"));
  const [from, to] = [join(folder.path, "vmlinuz"), join(folder.path, "vmlinux")];
  await writeFile(from, image);
  await extractVmlinux(from, to, Deadline.after(20_000, "the test"));
  return await readFile(to);
}

test("extractVmlinux() unpacks each compression that Debian has used", async () => {
  const xz = execFileSync("xz", ["--check=crc32", "--stdout"], { input: elf });
  assert.deepEqual(await extract(bzImage(xz, true)), elf);
  assert.deepEqual(await extract(bzImage(zstdCompressSync(elf), true)), elf);
  assert.deepEqual(await extract(bzImage(gzipSync(elf), false)), elf);
});

test("unpackLz4Legacy() copies what it has just written, and refuses to copy from nowhere", () => {
  const magic = [0x02, 0x21, 0x4c, 0x18];
  // "ab", then 2 bytes back for 4 + 15 + 1 bytes, then "c" to end with
  const sequences = [0x2f, 0x61, 0x62, 0x02, 0x00, 0x01, 0x10, 0x63];
  const packed = Buffer.from([...magic, sequences.length, 0, 0, 0, ...sequences]);
  assert.equal(unpackLz4Legacy(packed).toString(), `${"ab".repeat(11)}c`);
  const nowhere = Buffer.from(packed).fill(0x09, 11, 12);
  for (const wrong of [nowhere, packed.subarray(0, -1), packed.subarray(0, 6), Buffer.from("no")]) {
    assert.throws(() => unpackLz4Legacy(wrong), { code: "command.failed" });
  }
});

test("extractVmlinux() refuses what it cannot unpack, and says what it is", async () => {
  const refused = { code: "command.failed" } as const;
  assert.throws(() => findCompressedKernel(elf), { ...refused, message: /no bzImage/ });
  assert.throws(() => findCompressedKernel(bzImage(elf, true, 0x0207)), {
    ...refused,
    message: /protocol 0x207/,
  });
  assert.throws(() => findCompressedKernel(bzImage(Buffer.from("BZh91AY"), true)), {
    ...refused,
    message: /begins 425a68/,
  });
  const whole = bzImage(gzipSync(elf), false);
  assert.throws(() => findCompressedKernel(whole.subarray(0, whole.length - 400)), {
    ...refused,
    message: /ends before/,
  });
  await assert.rejects(extract(bzImage(gzipSync("no kernel"), false)), {
    ...refused,
    message: /than an ELF file/,
  });
});

test("extractVmlinux() unpacks the guest's own kernel", async (t) => {
  const [path] = await Array.fromAsync(glob(join(defaultCacheFolder(), "kernel-*/vmlinuz")));
  if (path === undefined) return t.skip("set-up has not fetched a kernel yet");
  const kernel = await extract(await readFile(path));
  const machine = kernel.readUInt16LE(18);
  const isExecutable64 = kernel.readUInt8(4) === 2 && kernel.readUInt16LE(16) === 2;
  assert.ok(isExecutable64 && machine === 62, "an executable ELF file of 64 bits, for x86-64");
  assert.match(kernel.toString("latin1"), /Linux version 6\.\d+\.\d+-\S*cloud-amd64 /);
});
