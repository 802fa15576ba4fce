/**
 * Lets one listening socket accept the TCP connections to many addresses and ports, in one network
 * namespace, and refuses all others: by a program that the kernel runs whenever it looks for the
 * listener of an arriving connection (BPF_PROG_TYPE_SK_LOOKUP, Linux 5.9).
 *
 * A refused connection is answered with a reset, as by a host where nobody listens; so is a packet
 * of a connection that no longer exists. The accepted socket's local end is the address and port
 * that the other side asked for.
 *
 * The namespace's own loopback is left alone; nothing from outside can reach it anyway.
 *
 * Nothing is written into the namespace: everything is descriptors of this process, and gone with
 * it.
 */
import { closeSync } from "node:fs";
import { assert } from "@torpor/std";
import { type Instruction, assemble, bpf, bpfCommand } from "./bpf.ts";

const BPF_MAP_TYPE_SOCKMAP = 15;
const BPF_PROG_TYPE_SK_LOOKUP = 30;
const BPF_SK_LOOKUP = 36;
const BPF_PSEUDO_MAP_FD = 1;
const IPPROTO_TCP = 6;
const SK_DROP = 0;
const SK_PASS = 1;

/** 127.0.0.0 */
const loopback = 0x7f00_0000;

const helper = { mapLookup: 1, release: 86, assign: 124 } as const;

/** Offsets in `struct bpf_sk_lookup`. Addresses are in network order, the local port is not. */
const context = { protocol: 12, localAddress: 40, localPort: 60 } as const;

/** Registers. 6 to 9 survive calls, 10 is the end of the stack. */
const [result, first, second, third, scratch] = [0, 1, 2, 3, 4];
const [kept, socketKept, stack] = [6, 7, 10];

const code = {
  load32: 0x61,
  storeValue32: 0x62,
  loadMap: 0x18,
  copy: 0xbf,
  copy32: 0xbc,
  setValue: 0xb7,
  addValue: 0x07,
  andValue32: 0x54,
  toBigEndian: 0xdc,
  jump: 0x05,
  jumpIfEqual: 0x15,
  jumpIfEqual32: 0x16,
  jumpUnlessEqual32: 0x56,
  call: 0x85,
  exit: 0x95,
} as const;

/** LIMIT: a jump reaches over 32767 instructions; a rule takes five at most. */
const rulesMax = 4_096;

/** Accepts or refuses the connections to a range of addresses. */
export interface DispatchRule {
  /** An IPv4 address as a number. */
  readonly address: number;
  readonly prefixBits: number;
  /** Any port when undefined. */
  readonly port?: number | undefined;
  readonly accept: boolean;
}

/** The dispatch of one namespace, in force until it is disposed of. */
export class ConnectionDispatch implements Disposable {
  readonly #descriptors: number[] = [];
  readonly #map: number;
  readonly #link: number;

  /**
   * Refuses everything until `setRules` is called.
   * @param namespace A descriptor of the network namespace.
   * @param listener A TCP socket that listens in the namespace.
   * @throws system error EPERM without CAP_SYS_ADMIN, EINVAL or ENOSYS where the kernel cannot do
   * it.
   */
  constructor(namespace: number, listener: number) {
    try {
      this.#map = this.#hold(createSocketMap(listener));
      const program = loadProgram([], this.#map);
      try {
        this.#link = this.#hold(
          bpf(bpfCommand.createLink, [
            [0, program],
            [4, namespace],
            [8, BPF_SK_LOOKUP],
          ]),
        );
      } finally {
        closeSync(program);
      }
    } catch (error) {
      this[Symbol.dispose]();
      throw error;
    }
  }

  /**
   * Sets the rules, at once: the first rule that matches decides, and a connection that none
   * matches is refused.
   */
  setRules(rules: readonly DispatchRule[]): void {
    assert(rules.length <= rulesMax, "a jump passes over all rules");
    const program = loadProgram(rules, this.#map);
    try {
      bpf(bpfCommand.updateLink, [
        [0, this.#link],
        [4, program],
      ]);
    } finally {
      closeSync(program);
    }
  }

  [Symbol.dispose](): void {
    for (const descriptor of this.#descriptors.splice(0)) closeSync(descriptor);
  }

  #hold(descriptor: number): number {
    this.#descriptors.push(descriptor);
    return descriptor;
  }
}

/** Makes a map of one socket, because a program can refer to a socket only through a map. */
function createSocketMap(listener: number): number {
  const map = bpf(bpfCommand.createMap, [
    [0, BPF_MAP_TYPE_SOCKMAP],
    [4, 4],
    [8, 4],
    [12, 1],
  ]);
  try {
    const value = Buffer.alloc(4);
    value.writeUInt32LE(listener);
    bpf(bpfCommand.updateElement, [
      [0, map],
      [8, Buffer.alloc(4)],
      [16, value],
    ]);
    return map;
  } catch (error) {
    closeSync(map);
    throw error;
  }
}

function loadProgram(rules: readonly DispatchRule[], map: number): number {
  const program = assemble(dispatchProgram(rules, map));
  return bpf(bpfCommand.loadProgram, [
    [0, BPF_PROG_TYPE_SK_LOOKUP],
    [4, program.length / 8],
    [8, program],
    [16, Buffer.from("Apache-2.0\0")],
    [68, BPF_SK_LOOKUP],
  ]);
}

function dispatchProgram(rules: readonly DispatchRule[], map: number): readonly Instruction[] {
  const pass = [
    { code: code.setValue, target: result, value: SK_PASS },
    { code: code.exit },
  ] as const satisfies readonly Instruction[];
  const refuse = [
    { code: code.setValue, target: result, value: SK_DROP },
    { code: code.exit },
  ] as const satisfies readonly Instruction[];
  const accept: readonly Instruction[] = [
    { code: code.storeValue32, target: stack, offset: -4, value: 0 },
    { code: code.copy, target: second, source: stack },
    { code: code.addValue, target: second, value: -4 },
    { code: code.loadMap, target: first, source: BPF_PSEUDO_MAP_FD, value: map },
    { code: 0 }, // second half of loadMap, which takes two instructions
    { code: code.call, value: helper.mapLookup },
    { code: code.jumpIfEqual, target: result, value: 0, offset: 9 },
    { code: code.copy, target: socketKept, source: result },
    { code: code.copy, target: first, source: kept },
    { code: code.copy, target: second, source: result },
    { code: code.setValue, target: third, value: 0 },
    { code: code.call, value: helper.assign },
    { code: code.copy, target: first, source: socketKept },
    { code: code.call, value: helper.release },
    ...pass,
    ...refuse,
  ];
  const judged = rules.flatMap((rule, index) => {
    const after = rules.slice(index + 1).reduce((sum, one) => sum + ruleLength(one), 0);
    return judge(rule, rule.accept ? after + refuse.length : after);
  });
  return [
    { code: code.copy, target: kept, source: first },
    { code: code.load32, target: second, source: kept, offset: context.protocol },
    { code: code.jumpIfEqual32, target: second, value: IPPROTO_TCP, offset: pass.length },
    ...pass,
    { code: code.load32, target: second, source: kept, offset: context.localAddress },
    { code: code.toBigEndian, target: second, value: 32 },
    { code: code.copy32, target: scratch, source: second },
    { code: code.andValue32, target: scratch, value: prefixMask(8) },
    { code: code.jumpUnlessEqual32, target: scratch, value: loopback, offset: pass.length },
    ...pass,
    { code: code.load32, target: third, source: kept, offset: context.localPort },
    ...judged,
    ...refuse,
    // The kernel refuses a program with a part that cannot be reached.
    ...(rules.some((rule) => rule.accept) ? accept : []),
  ];
}

/**
 * Continues with the next instruction if the rule does not match, and otherwise `offset`
 * instructions further.
 */
function judge(rule: DispatchRule, offset: number): readonly Instruction[] {
  const { address, prefixBits, port } = rule;
  const onPort: readonly Instruction[] =
    port === undefined
      ? []
      : [{ code: code.jumpUnlessEqual32, target: third, value: port, offset: 3 }];
  return [
    ...onPort,
    { code: code.copy32, target: scratch, source: second },
    { code: code.andValue32, target: scratch, value: prefixMask(prefixBits) },
    { code: code.jumpIfEqual32, target: scratch, value: address & prefixMask(prefixBits), offset },
  ];
}

function ruleLength({ port }: DispatchRule): number {
  return port === undefined ? 3 : 4;
}

/** The netmask as a signed number, as the instructions take it. */
function prefixMask(prefixBits: number): number {
  return prefixBits === 0 ? 0 : -1 << (32 - prefixBits);
}
