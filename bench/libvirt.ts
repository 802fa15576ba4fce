/**
 * libvirt with a daemon of its own, and one guest that `virsh save` and `virsh restore` save and
 * restore.
 *
 * The daemon is a session daemon: it runs in a user namespace, so that it takes itself for an
 * ordinary user's, keeps everything in one folder, and never meets a libvirt of this machine. One
 * `virsh` stays open and reads its commands from a pipe, so that its start does not count.
 *
 * libvirt's XML cannot describe disks and network cards of the microvm machine. Those are passed on
 * to QEMU as they are on our own command line, so that the guest is the same to the last device.
 */
import { type ChildProcessWithoutNullStreams, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type HostPackage, ensureDebianPackages } from "@torpor/setup";
import { Deadline, flush, ignoreFailure } from "@torpor/std";
import { endChild, hasEnded } from "./child.ts";
import type { PlainGuest } from "./plain-guest.ts";
import type { SavingTool } from "./saving-tool.ts";

const packages: readonly HostPackage[] = [
  { name: "libvirt-daemon", why: "is measured against", newest: false },
  { name: "libvirt-daemon-driver-qemu", why: "runs QEMU for libvirt", newest: false },
  { name: "libvirt-clients", why: "has virsh", newest: false },
];
/** The user id in the namespace: any but root's. */
const sessionUser = "1";
const startBudgetMs = 30_000;
const commandBudgetMs = 120_000;
const pollMs = 20;
const prompt = "virsh # ";
/** Options that libvirt's XML cannot express. */
const passedOn = new Set(["-blockdev", "-device", "-netdev", "-chardev", "-serial"]);

/** Starts the daemon and the guest; both end with `undo`. */
export async function startLibvirt(
  guest: PlainGuest,
  undo: AsyncDisposableStack,
): Promise<SavingTool> {
  await ensureDebianPackages({}, packages);
  const folder = join(guest.spec.runFolder, "libvirt");
  const socket = await startDaemon(folder, undo);
  const virsh = undo.use(await Virsh.connect(socket));
  const domain = join(folder, "guest.xml");
  await writeFile(domain, domainXml(guest));
  await virsh.run(`create ${domain}`);
  // A guest that was just saved has already ended.
  undo.defer(() => ignoreFailure("it has ended already", virsh.run("destroy bench")));
  const saved = join(folder, "guest.save");
  return {
    save: async () => {
      await virsh.run(`save bench ${saved}`);
      await flush(saved);
    },
    restore: () => virsh.run(`restore ${saved}`),
  };
}

/** Starts libvirt's daemon. @returns the path of its socket */
async function startDaemon(folder: string, undo: AsyncDisposableStack): Promise<string> {
  const settings = join(folder, "config/libvirt");
  await mkdir(settings, { recursive: true });
  // QEMU's messages go to a file and not to a log daemon, which does not run.
  await writeFile(join(settings, "qemu.conf"), 'stdio_handler = "file"\n');
  const namespace = ["--user", `--map-user=${sessionUser}`, `--map-group=${sessionUser}`];
  const daemon = spawn("unshare", [...namespace, "libvirtd", "--timeout", "0"], {
    stdio: "ignore",
    env: {
      ...process.env,
      HOME: folder,
      XDG_RUNTIME_DIR: join(folder, "run"),
      XDG_CONFIG_HOME: join(folder, "config"),
      XDG_CACHE_HOME: join(folder, "cache"),
      XDG_DATA_HOME: join(folder, "data"),
    },
  });
  undo.adopt(daemon, (child) => endChild(child, "SIGTERM"));
  const socket = join(folder, "run/libvirt/libvirt-sock");
  const deadline = Deadline.after(startBudgetMs, "starting libvirt's daemon");
  while (!existsSync(socket)) {
    if (hasEnded(daemon)) throw new Error(`libvirtd ended with ${daemon.exitCode}`);
    deadline.check();
    await deadline.sleep(pollMs);
  }
  return socket;
}

/** A `virsh` that reads commands: a command is done when the prompt appears again. */
class Virsh implements AsyncDisposable {
  readonly #child: ChildProcessWithoutNullStreams;
  #printed = "";

  private constructor(socket: string) {
    const uri = `qemu+unix:///session?socket=${socket}`;
    this.#child = spawn("virsh", ["--connect", uri], { env: { ...process.env, LC_ALL: "C" } });
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text: string) => (this.#printed += text));
    }
  }

  static async connect(socket: string): Promise<Virsh> {
    const virsh = new Virsh(socket);
    await virsh.#untilPrompt("connecting to libvirt");
    return virsh;
  }

  async run(command: string): Promise<void> {
    this.#printed = "";
    this.#child.stdin.write(`${command}\n`);
    await this.#untilPrompt(command);
    if (this.#printed.includes("error:")) throw new Error(`virsh ${command}: ${this.#printed}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await endChild(this.#child, "SIGTERM");
  }

  async #untilPrompt(what: string): Promise<void> {
    const deadline = Deadline.after(commandBudgetMs, `virsh: ${what}`);
    while (!this.#printed.endsWith(prompt)) {
      if (hasEnded(this.#child)) throw new Error(`virsh ended: ${this.#printed}`);
      await deadline.race(once(this.#child.stdout, "data"));
    }
  }
}

function domainXml(guest: PlainGuest): string {
  const { machine } = guest.spec;
  const isKvm = guest.accelerator === "kvm";
  const processor = isKvm
    ? "<cpu mode='host-passthrough' migratable='on'/>"
    : "<cpu mode='maximum'/>";
  // Without an element for ACPI libvirt adds an option that newer QEMUs do not know.
  const emulation = isKvm ? "" : "<tcg><tb-cache unit='MiB'>128</tb-cache></tcg>";
  return `<domain type='${isKvm ? "kvm" : "qemu"}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>bench</name>
  <memory unit='MiB'>${machine.memoryMiB}</memory>
  <vcpu>${machine.vcpuCount}</vcpu>
  <os>
    <type arch='x86_64' machine='microvm'>hvm</type>
    <kernel>${escaped(machine.kernelPath)}</kernel>
    <initrd>${escaped(machine.initramfsPath)}</initrd>
    <cmdline>${escaped(machine.kernelArguments)}</cmdline>
  </os>
  <features><acpi/>${emulation}</features>
  ${processor}
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
    ${["-machine", "rtc=on", ...passedOnArguments(guest)].map(argumentXml).join("\n    ")}
  </qemu:commandline>
</domain>
`;
}

function passedOnArguments({ argv }: PlainGuest): readonly string[] {
  return argv.flatMap((option, index) =>
    passedOn.has(option) ? [option, argv[index + 1] ?? ""] : [],
  );
}

function argumentXml(argument: string): string {
  return `<qemu:arg value='${escaped(argument)}'/>`;
}

function escaped(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll("'", "&apos;");
}
