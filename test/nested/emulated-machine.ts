/**
 * Runs the machine with KVM to its end: QEMU emulates an AMD processor with virtualization (SVM and
 * nested paging), so that `kvm_amd` of the kernel inside works, whatever this machine has.
 *
 * The machine has no network. Its console comes line by line; it ends itself when its work is done, and
 * with this process, however that ends.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { measureTscKhz } from "@torpor/native";
import { type Deadline, TorporError, systemCode } from "@torpor/std";
import type { Machine } from "./machine.ts";

/** More than one, and the emulator now and then delivers an interrupt where none is let in, and the kernel ends. */
const vcpuCount = 1;
const memoryMiB = 6 * 1024;
/** Room for the code of the processor and of all its guests. */
const tcgCodeCacheMiB = 1024;
/** LIMIT of what QEMU itself may say and be quoted with. */
const complaintCharsMax = 2_000;

export interface EmulatedMachine {
  readonly machine: Machine;
  /** qcow2, above the machine's disk. */
  readonly topPath: string;
  /** Raw, both. */
  readonly workPath: string;
  readonly cachePath: string;
  readonly onLine: (line: string) => void;
  /** Ends it before its time. */
  readonly signal: AbortSignal;
}

/** @throws vmm.failed when QEMU refuses, deadline.exceeded after ending it */
export async function runEmulatedMachine(
  { machine, topPath, workPath, cachePath, onLine, signal }: EmulatedMachine,
  deadline: Deadline,
): Promise<void> {
  const tscKhz = await measureTscKhz();
  const [program, ...args] = [
    ...["setpriv", "--pdeathsig", "KILL"],
    ...["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"],
    ...["-machine", "microvm,rtc=on"],
    ...["-accel", `tcg,thread=multi,tb-size=${tcgCodeCacheMiB}`],
    ...["-cpu", "EPYC,+svm,+npt", "-smp", String(vcpuCount), "-m", `${memoryMiB}M`],
    ...["-kernel", machine.kernelPath, "-initrd", machine.initramfsPath],
    ...["-append", kernelArguments(tscKhz)],
    ...["-blockdev", node("layer", machine.diskPath, "raw", { "read-only": true })],
    ...["-blockdev", node("system", topPath, "qcow2", { backing: "layer" })],
    ...["-blockdev", node("work", workPath, "raw")],
    ...["-blockdev", node("cache", cachePath, "raw")],
    ...["system", "work", "cache"].flatMap((name) => [
      "-device",
      `virtio-blk-device,drive=${name}`,
    ]),
    ...["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"],
  ] as const;
  const qemu = spawn(program, args, { signal, stdio: ["pipe", "pipe", "pipe"] });
  await using undo = new AsyncDisposableStack();
  const ended = once(qemu, "close");
  undo.defer(async () => {
    qemu.kill("SIGKILL");
    await ended.catch(() => undefined);
  });
  let complaints = "";
  qemu.stderr.on("data", (chunk) => {
    complaints = `${complaints}${String(chunk)}`.slice(-complaintCharsMax);
  });
  createInterface({ input: qemu.stdout }).on("line", onLine);
  const [code] = (await deadline.race(ended.catch(asMissing(program)))) as [number | null];
  if (code !== 0) throw new TorporError("vmm.failed", `QEMU ended with ${code}: ${complaints}`);
}

function asMissing(program: string): (cause: unknown) => never {
  return (cause) => {
    if (systemCode(cause) !== "ENOENT") throw cause;
    throw new TorporError("command.notFound", `${program} is not installed`, { cause });
  };
}

/** What is in the host's page cache when a run ends is written some time: nothing waits for it. */
function node(name: string, filename: string, driver: string, more: object = {}): string {
  const cache = { "no-flush": true };
  const file = { driver: "file", filename, ...("read-only" in more ? more : {}) };
  return JSON.stringify({ driver, "node-name": name, cache, file, ...more });
}

/** Left to measure its timestamp counter on a busy host, an emulated Linux gives up and hangs. */
function kernelArguments(tscKhz: number): string {
  return [
    ...["console=ttyS0", "quiet", "loglevel=3", "panic=-1", "reboot=t"],
    ...[`tsc_early_khz=${tscKhz}`, "tsc=reliable"],
    ...[
      "mitigations=off",
      "apparmor=0",
      "audit=0",
      "init_on_alloc=0",
      "randomize_kstack_offset=off",
    ],
  ].join(" ");
}
