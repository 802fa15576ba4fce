/**
 * The guest's Debian system: one tar file that mmdebstrap makes from this machine's own mirror.
 *
 * It holds only what Debian and its packages bring, the user, and nothing that must differ between
 * machines (machine id, host keys, random seed). Torpor's own additions are in guest-files.ts, so
 * that a change of the agent does not build Debian again.
 */
import { chmod, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { type Deadline, runCommand } from "@torpor/std";
import { aptEnv, guestSourceLines, inheritedAptOptions, loadDebianArchives } from "./apt.ts";
import type { Report } from "./progress.ts";

/** The Debian release of every guest. */
export const guestRelease = "bookworm";
/** The user that commands in a sandbox run as by default. */
export const guestUserName = "user";
/** The id of that user and of its group. */
export const guestUserId = 1000;
/** Every file has this date, 2024-01-01: the same packages give the same archive. In seconds. */
export const sourceDateEpoch = 1_704_067_200;

/** Small, but enough that an agent can edit, fetch, build and run without installing anything. */
const guestPackages: readonly string[] = [
  "bash",
  "build-essential",
  "busybox-static",
  "ca-certificates",
  "coreutils",
  "curl",
  "file",
  "git",
  "iproute2",
  "iputils-ping",
  "jq",
  "less",
  "netbase",
  "openssh-client",
  "patch",
  "procps",
  "python-is-python3",
  "python3",
  "python3-dev",
  "python3-pip",
  "python3-venv",
  "rsync",
  "sqlite3",
  "sudo",
  "unzip",
  "util-linux",
  "wget",
  "xz-utils",
  "zip",
];

/** No program reads these; they are two thirds of a small Debian. */
const excludedPaths: readonly string[] = [
  "/usr/share/doc/*",
  "/usr/share/info/*",
  "/usr/share/locale/*",
  "/usr/share/man/*",
  "/usr/lib/x86_64-linux-gnu/perl/*/CORE/*",
  // For programs that embed Python; C modules need the headers only.
  "/usr/lib/python3*/config-*/libpython*.a",
  "/usr/lib/x86_64-linux-gnu/libpython3*.a",
  // A debugging tool for compiler authors; as large as the compiler.
  "/usr/bin/*-lto-dump-*",
  // Without this mark `pip install` works, with no flag (PEP 668): nobody else uses this system.
  "/usr/lib/python3*/EXTERNALLY-MANAGED",
];
const includedPaths: readonly string[] = ["/usr/share/doc/*/copyright"];

/**
 * Runs outside the guest's tree with the tree as its argument, after all packages are installed.
 * SAFETY: it must leave `$root/tmp` alone. mmdebstrap keeps the settings there that make apt work
 * on the tree; without them its clean-up empties the host's own package lists and cache. It also
 * cleans the tree's lists and cache itself, after this script.
 */
export const customizeScript = `#!/bin/sh
set -eu
root="$1"
chroot "$root" useradd --uid ${guestUserId} --user-group --create-home --shell /bin/bash ${guestUserName}
chroot "$root" passwd --quiet --delete root >/dev/null
chroot "$root" usermod --lock root
printf '%s\\n' '${guestUserName} ALL=(ALL:ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/${guestUserName}"
chmod 0440 "$root/etc/sudoers.d/${guestUserName}"
printf '%s\\n' 'LANG=C.UTF-8' >"$root/etc/default/locale"
mkdir -p "$root/usr/local/bin" "$root/usr/local/sbin"
rm -f "$root/etc/machine-id" "$root/var/lib/dbus/machine-id" "$root/var/lib/systemd/random-seed"
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/hostname" "$root/etc/resolv.conf"
rm -f "$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/etc/*-
rm -f "$root/etc/apt/apt.conf.d/99mmdebstrap"
rm -rf "$root"/var/log/*.log "$root"/var/log/apt
`;

/** Everything that decides the content of the archive, for the key of its layer. */
export const rootfsInputs = {
  release: guestRelease,
  packages: guestPackages,
  excludedPaths,
  includedPaths,
  customizeScript,
  sourceDateEpoch,
};

/** The phases that mmdebstrap names; the shares are of a run on two cores. */
const phases: readonly (readonly [pattern: RegExp, from: number, text: string])[] = [
  [/^I: running apt-get update/, 0.02, "package lists"],
  [/^I: downloading packages/, 0.12, "downloading"],
  [/^I: extracting archives/, 0.3, "unpacking the essential packages"],
  [/^I: installing essential/, 0.38, "installing the essential packages"],
  [/^I: installing remaining/, 0.55, "installing the other packages"],
  [/^I: running --customize-hook/, 0.94, "user and settings"],
  [/^I: cleaning/, 0.95, "cleaning up"],
  [/^I: creating tarball/, 0.97, "writing the archive"],
];
/** The usual number of "Setting up …" lines, so that the bar moves within a phase. */
const setUpLinesExpected = 260;

/** Returns a listener that turns lines of `mmdebstrap --verbose` into progress. */
export function mmdebstrapProgress(report: Report): (line: string) => void {
  let fraction = 0;
  return (line) => {
    const phase = phases.find(([pattern]) => pattern.test(line));
    if (phase !== undefined) {
      fraction = Math.max(fraction, phase[1]);
      report(fraction, phase[2]);
      return;
    }
    const name = /^Setting up ([^\s:]+)/.exec(line)?.[1];
    if (name === undefined) return;
    fraction = Math.min(0.93, fraction + 0.56 / setUpLinesExpected);
    report(fraction, name);
  };
}

/** Builds `rootfs.tar` in an empty folder. Needs root, mmdebstrap and the network. */
export async function buildRootfsLayer(
  dir: string,
  report: Report,
  deadline: Deadline,
): Promise<void> {
  const hook = join(dir, "customize.sh");
  await writeFile(hook, customizeScript);
  await chmod(hook, 0o755);
  const sources = await guestSourceLines(await loadDebianArchives(deadline), guestRelease);
  const target = join(dir, "rootfs.tar");
  await makeDebianTree({ packages: guestPackages, sources, hook, target }, report, deadline);
}

/** A Debian system to make. */
export interface DebianTree {
  readonly packages: readonly string[];
  /** Lines of a sources.list. */
  readonly sources: readonly string[];
  /** The preferred suite of the sources if not the release itself, such as its backports. */
  readonly suite?: string;
  /** A program to run with the tree as its argument after all packages are installed. */
  readonly hook?: string;
  /** A folder to make, or an archive whose name ends in ".tar"; scratch files lie beside it. */
  readonly target: string;
}

/** Makes a Debian of the guest's release with mmdebstrap. Needs root and the network. */
export async function makeDebianTree(
  { packages, sources, suite, hook, target }: DebianTree,
  report: Report,
  deadline: Deadline,
): Promise<void> {
  const inherited = await inheritedAptOptions(deadline);
  const argv = [
    "mmdebstrap",
    ...["--verbose", "--mode=root", "--variant=minbase", "--architectures=amd64"],
    `--include=${packages.join(",")}`,
    // An interrupted build is discarded, so nothing needs flushing during it; nor later in a guest,
    // whose disk returns to its last snapshot together with it when it dies.
    "--dpkgopt=force-unsafe-io",
    ...excludedPaths.map((path) => `--dpkgopt=path-exclude=${path}`),
    ...includedPaths.map((path) => `--dpkgopt=path-include=${path}`),
    ...inherited.map((option) => `--aptopt=${aptConfLine(option)}`),
    ...['--aptopt=APT::Sandbox::User "root"', '--aptopt=Acquire::Retries "3"'],
    ...(suite === undefined ? [] : [`--aptopt=APT::Default-Release "${suite}"`]),
    ...(hook === undefined ? [] : [`--customize-hook=${hook}`]),
    ...[guestRelease, target],
    ...sources,
  ];
  // SAFETY: mmdebstrap mounts the host's /dev into the tree. In mount and process namespaces of its
  // own, both the mounts and all its processes are gone when it ends, however it ends; and it ends
  // when we do, or it would continue in a folder that the next builder cleans.
  await runCommand(
    [
      ...(["setpriv", "--pdeathsig", "KILL"] as const),
      ...["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"],
      ...argv,
    ],
    deadline,
    {
      env: { ...aptEnv, SOURCE_DATE_EPOCH: String(sourceDateEpoch), TMPDIR: dirname(target) },
      onLine: mmdebstrapProgress(report),
    },
  );
  report(1);
}

/** The hook removes these lines from the guest again: they are about this machine. */
function aptConfLine(option: string): string {
  const at = option.indexOf("=");
  return `${option.slice(0, at)} "${option.slice(at + 1)}"`;
}
