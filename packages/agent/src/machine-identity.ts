/**
 * Gives this guest an identity of its own in the places where programs look for it: host name,
 * machine id, boot id, and the SSH host keys. Every copy of a memory has the same ones until then.
 *
 * The kernel's host name, the boot id and the machine id are a promise: a guest that cannot have
 * its own does not wake. Therefore they do not depend on what programs inside can spoil: a file
 * that cannot be written on the disk, because the disk is full or read-only, is covered by a bind
 * mount of a file in memory. The rest is best effort, and failures are in the log.
 *
 * No program is spawned, which would cost each new sandbox some 100 ms under emulation; only SSH
 * keys are made by SSH, where there are any. Each step may be repeated.
 *
 * Not reached: other mount namespaces that show a /proc of their own, and the memory of programs.
 */
import { mkdirSync, readdirSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { bindReadOnly } from "@torpor/native";
import type { MachineIdentity } from "@torpor/protocol";
import { type Deadline, type Logger, runCommand, systemCode } from "@torpor/std";
import { overwritePlainFile, readPlainFile } from "./plain-file.ts";

const memoryFolder = "/run/torpor";
/**
 * LIMIT: some users block advertisers by a long hosts file; one that is longer than this is left
 * alone.
 */
const hostsBytesMax = 4 << 20;
const ownAddress = "127.0.1.1";
const sshFolder = "/etc/ssh";
const sshHostKey = /^ssh_host_\w+_key$/;

/**
 * Gives the guest the identity; repeatable.
 * @throws system error when a part of the promise cannot be kept.
 */
export function becomeMachine(identity: MachineIdentity, log: Logger): void {
  const { hostname, machineId, bootId } = identity;
  writeFileSync("/proc/sys/kernel/hostname", hostname);
  mkdirSync(memoryFolder, { recursive: true, mode: 0o755 });
  showFromMemory("boot-id", "/proc/sys/kernel/random/boot_id", `${bootId}\n`);
  setMachineId(`${machineId}\n`, log);
  const tryTo = (what: string, work: () => void): void => {
    try {
      work();
    } catch (cause) {
      log.warn(`cannot ${what}`, { cause });
    }
  };
  tryTo("write /etc/hostname", () => overwritePlainFile("/etc/hostname", `${hostname}\n`, 0o644));
  tryTo("write /etc/hosts", () => {
    const hosts = withOwnName(readPlainFile("/etc/hosts", hostsBytesMax), hostname);
    overwritePlainFile("/etc/hosts", hosts, 0o644);
  });
  tryTo("remove the random seed", () => rmSync("/var/lib/systemd/random-seed", { force: true }));
}

/**
 * Replaces the SSH host keys, if there are any. The old ones are removed first: without keys SSH
 * refuses to serve, and with those of another guest it would answer in that guest's name.
 * @throws system error, command.failed, command.notFound; deadline.exceeded with no new keys made.
 */
export async function renewSshHostKeys(deadline: Deadline): Promise<void> {
  const names = listSshHostKeys();
  if (names.length === 0) return;
  for (const name of names) {
    rmSync(join(sshFolder, name), { force: true });
    rmSync(join(sshFolder, `${name}.pub`), { force: true });
  }
  await runCommand(["ssh-keygen", "-A"], deadline);
}

function listSshHostKeys(): readonly string[] {
  try {
    return readdirSync(sshFolder).filter((name) => sshHostKey.test(name));
  } catch (cause) {
    if (systemCode(cause) === "ENOENT") return [];
    throw cause;
  }
}

function setMachineId(text: string, log: Logger): void {
  try {
    overwritePlainFile("/etc/machine-id", text, 0o444);
  } catch (cause) {
    log.warn("the machine id is kept in memory", { cause });
    showFromMemory("machine-id", "/etc/machine-id", text);
  }
}

/**
 * Shows `text` as the content of the file `target`, read-only, by a bind mount of a file in memory.
 */
function showFromMemory(name: string, target: string, text: string): void {
  const source = join(memoryFolder, name);
  overwritePlainFile(source, text, 0o444);
  const [above, below] = [statSync(target), statSync(source)];
  // A mount that is there already shows the new text, in copies of this mount namespace too.
  if (above.dev === below.dev && above.ino === below.ino) return;
  bindReadOnly(source, target);
}

/** The hosts file with this machine's own name on 127.0.1.1, and every other line unchanged. */
export function withOwnName(hosts: string, hostname: string): string {
  const line = `${ownAddress} ${hostname}`;
  const pattern = /^127\.0\.1\.1[ \t].*$/m;
  if (pattern.test(hosts)) return hosts.replace(pattern, line);
  return `${hosts}${hosts === "" || hosts.endsWith("\n") ? "" : "\n"}${line}\n`;
}
