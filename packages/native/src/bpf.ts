/**
 * The part of bpf(2) that is needed to load a program into the kernel and to attach it.
 *
 * Programs are assembled here from single instructions. The kernel verifies each program before it
 * accepts it, so a wrong one is refused and never run.
 */
import { constants } from "node:os";
import koffi from "koffi";
import { check, lastErrno, libc } from "./libc.ts";

const SYS_BPF = 321;

const syscall = libc.func(
  "long syscall(long number, int command, _Inout_ uint8_t *attributes, unsigned int size)",
) as (number: number, command: number, attributes: Buffer, size: number) => number;

/** Commands of bpf(2), from linux/bpf.h. */
export const bpfCommand = {
  createMap: 0,
  updateElement: 2,
  loadProgram: 5,
  createLink: 28,
  updateLink: 29,
} as const;

/** LIMIT: more bytes than any of the kernel's structures for the commands above. */
const attributesBytes = 128;
/**
 * LIMIT: tries of a command that signals interrupt; signals rarely come one right after the other.
 */
const triesMax = 100;

/**
 * Calls bpf(2) and returns its result, such as a descriptor.
 * @param fields By their offset in `union bpf_attr`: a number of four bytes, or bytes to point at.
 * @throws a system error
 */
export function bpf(
  command: number,
  fields: readonly (readonly [offset: number, value: number | Buffer])[],
): number {
  const attributes = Buffer.alloc(attributesBytes);
  for (const [offset, value] of fields) {
    if (typeof value === "number") attributes.writeUInt32LE(value, offset);
    else attributes.writeBigUInt64LE(koffi.address(value), offset);
  }
  let result = -1;
  // The kernel abandons the verification of a program when a signal arrives, such as SIGCHLD for an
  // ended child.
  for (let tries = 0; tries < triesMax; tries += 1) {
    result = syscall(SYS_BPF, command, attributes, attributes.length);
    if (result !== -1 || lastErrno() !== constants.errno.EAGAIN) break;
  }
  return check(result, "bpf");
}

/** One instruction of a program; fields that are left out are 0. */
export interface Instruction {
  readonly code: number;
  readonly target?: number;
  readonly source?: number;
  /** For a jump, counted in instructions from the next one; otherwise in bytes. */
  readonly offset?: number;
  /** 32 bits, signed or not. */
  readonly value?: number;
}

const instructionBytes = 8;

/** Encodes instructions as consecutive `struct bpf_insn`. */
export function assemble(instructions: readonly Instruction[]): Buffer {
  const bytes = Buffer.alloc(instructions.length * instructionBytes);
  for (const [index, one] of instructions.entries()) {
    const at = index * instructionBytes;
    bytes.writeUInt8(one.code, at);
    bytes.writeUInt8((one.target ?? 0) | ((one.source ?? 0) << 4), at + 1);
    bytes.writeInt16LE(one.offset ?? 0, at + 2);
    bytes.writeInt32LE((one.value ?? 0) | 0, at + 4);
  }
  return bytes;
}
