/**
 * Decides, before anything is started, whether saved device state may be loaded on this machine.
 */
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { TorporError } from "@torpor/std";
import type { VmmIdentity } from "./driver.ts";

/**
 * LIMIT: the difference that hypervisors themselves tolerate, plus the error of measuring twice.
 */
const tscTolerance = 0.001;

const fingerprintFields = ["vendor_id", "cpu family", "model", "stepping", "flags"];

/** Fingerprint of this machine's first CPU, see `VmmIdentity.cpuFingerprint`. */
export async function cpuFingerprint(): Promise<string> {
  const [firstCpu = ""] = (await readFile("/proc/cpuinfo", "utf8")).split("\n\n");
  const fields = firstCpu
    .split("\n")
    .map((line) => line.split(":"))
    .filter(([name]) => fingerprintFields.includes(name?.trim() ?? ""))
    .map(([name, value]) => `${name?.trim()}=${value?.trim()}`);
  return createHash("sha256").update(fields.join("\n")).digest("hex");
}

/**
 * Compares what the guest saw of its machine with what this version would build.
 * @throws snapshot.incompatible if the guest would wake in another machine than it was saved in.
 */
export function assertSameMachine(saved: readonly string[], here: readonly string[]): void {
  if (saved.join(" ") === here.join(" ")) return;
  throw new TorporError(
    "snapshot.incompatible",
    `the machine was "${saved.join(" ")}", this version makes "${here.join(" ")}"`,
    { advice: "Resume it with the version of Torpor that saved it." },
  );
}

/**
 * Compares the VMM and host of a snapshot with those here.
 * @throws snapshot.incompatible naming every difference.
 */
export function assertLoadable(saved: VmmIdentity, here: VmmIdentity): void {
  const differences: string[] = [];
  const compare = (what: string, then: string, now: string): void => {
    if (then !== now) differences.push(`${what} was ${then}, here it is ${now}`);
  };
  compare("VMM", `${saved.vmm} ${saved.version}`, `${here.vmm} ${here.version}`);
  compare("accelerator", saved.accelerator, here.accelerator);
  compare("CPU", saved.cpuFingerprint.slice(0, 12), here.cpuFingerprint.slice(0, 12));
  if (Math.abs(saved.tscKhz - here.tscKhz) / saved.tscKhz > tscTolerance) {
    compare("timestamp counter", `${saved.tscKhz} kHz`, `${here.tscKhz} kHz`);
  }
  if (differences.length > 0) {
    throw new TorporError(
      "snapshot.incompatible",
      `the snapshot was taken elsewhere: ${differences.join("; ")}`,
    );
  }
}
