/**
 * Finds which of the Debian packages that Torpor needs on the host are missing, and installs them.
 *
 * It never upgrades or removes an installed package. On Debian 12 a missing QEMU comes from
 * backports (QEMU 10 instead of 7.2), from a source of our own at the address of the machine's; if
 * that fails, the release's QEMU is used and one line says so. When nothing is missing, this is one
 * call of dpkg-query: no network, no root.
 */
import { rm } from "node:fs/promises";
import { Deadline, TorporError, runCommand, writeFileDurably } from "@torpor/std";
import {
  type AptTarget,
  type OsRelease,
  aptEnv,
  findDebianArchives,
  listAptTargets,
  loadOsRelease,
  parseAptStatus,
} from "./apt.ts";
import { type Progress, type Report, silentProgress } from "./progress.ts";

/** A Debian package that Torpor needs. */
export interface HostPackage {
  readonly name: string;
  /** Torpor's need for it, in words; shown before it is installed. */
  readonly why: string;
  /** Install from backports on a release that is too old, where there are any. */
  readonly newest: boolean;
}

/** The packages that every host needs. */
export const hostPackages: readonly HostPackage[] = [
  { name: "qemu-system-x86", why: "runs the sandboxes", newest: true },
  { name: "qemu-utils", why: "checks their disks", newest: true },
  { name: "mmdebstrap", why: "builds the guest system", newest: false },
  { name: "e2fsprogs", why: "makes the guest's file system", newest: false },
];

/** The release whose own QEMU is too old to be the first choice. */
const backportsRelease = "bookworm";
/** The file that adds the backports to apt's sources; `torpor uninstall` removes it. */
export const backportsPath = "/etc/apt/sources.list.d/torpor-backports.sources";

const queryBudgetMs = 20_000;
const updateBudgetMs = 5 * 60_000;
const installBudgetMs = 20 * 60_000;
const lockRetryMs = 2_000;

/** How an installation is shown. */
export interface EnsurePackagesOptions {
  /** Shows a step while packages are installed, and why; shows nothing when none is missing. */
  readonly progress?: Progress;
}

/** Name and version of every package that is fully installed. */
export async function loadInstalledPackages(): Promise<ReadonlyMap<string, string>> {
  const format = "${Package}\t${db:Status-Status}\t${Version}\n";
  const { stdout } = await runCommand(
    ["dpkg-query", "--show", `--showformat=${format}`],
    Deadline.after(queryBudgetMs, "dpkg-query"),
  );
  return parseInstalledPackages(stdout);
}

/** Parses the output of dpkg-query; keeps what is fully installed. */
export function parseInstalledPackages(text: string): ReadonlyMap<string, string> {
  const installed = new Map<string, string>();
  for (const line of text.split("\n")) {
    const [name, status, version] = line.split("\t");
    if (name !== undefined && status === "installed") installed.set(name, version ?? "");
  }
  return installed;
}

/** Lists the needed packages that are not installed. */
export function missingPackages(
  installed: ReadonlyMap<string, string>,
  needed: readonly HostPackage[] = hostPackages,
): readonly HostPackage[] {
  return needed.filter((one) => !installed.has(one.name));
}

/**
 * Installs the missing packages and returns their names; does nothing when none is missing. Safe to
 * repeat.
 * @throws root.required with the exact apt command as its advice,
 * @throws command.failed when apt fails.
 */
export async function ensureDebianPackages(
  options: EnsurePackagesOptions = {},
  needed: readonly HostPackage[] = hostPackages,
): Promise<readonly string[]> {
  const { progress = silentProgress } = options;
  const missing = missingPackages(await loadInstalledPackages(), needed);
  if (missing.length === 0) return [];
  const names = missing.map((one) => one.name);
  if (process.getuid?.() !== 0) {
    throw new TorporError("root.required", `these packages are missing: ${names.join(", ")}`, {
      advice: `Run as root: ${installCommand(names)}`,
    });
  }
  const reasons = missing.map((one) => `${one.name} (${one.why})`);
  progress.note(`Installing ${reasons.join(", ")}: ${installCommand(names)}`);
  await progress.step("Debian packages", async (report) =>
    installMissing(missing, (text) => progress.note(text), report),
  );
  return names;
}

/** The command a user could type instead. */
export function installCommand(names: readonly string[]): string {
  return `apt-get update && apt-get install --no-install-recommends ${names.join(" ")}`;
}

async function installMissing(
  missing: readonly HostPackage[],
  onNote: (text: string) => void,
  report: Report,
): Promise<void> {
  const release = await loadOsRelease();
  const newest = missing.filter((one) => one.newest).map((one) => one.name);
  const rest = missing.filter((one) => !one.newest).map((one) => one.name);
  report(0, "package lists");
  const suite = newest.length > 0 ? await updateWithBackports(release, onNote) : undefined;
  if (suite === undefined) await updateLists();
  const restShare = rest.length / missing.length;
  if (rest.length > 0) await install(rest, [], partOf(report, 0.1, 0.1 + 0.9 * restShare));
  if (newest.length > 0) {
    await installNewest(newest, suite, onNote, partOf(report, 0.1 + 0.9 * restShare, 1));
  }
}

/** Returns the suite to install from, or undefined when the release's own packages must do. */
async function updateWithBackports(
  release: OsRelease,
  onNote: (text: string) => void,
): Promise<string | undefined> {
  if (release.codename !== backportsRelease) return undefined;
  const suite = `${release.codename}-backports`;
  const targets = await listAptTargets(Deadline.after(queryBudgetMs, "apt-get indextargets"));
  let written = false;
  try {
    if (!targets.some((target) => target.suite === suite && target.component === "main")) {
      await writeFileDurably(backportsPath, backportsSource(targets, release.codename), 0o644);
      written = true;
    }
    await updateLists();
    return suite;
  } catch (error) {
    // ORDER: remove a source that cannot be fetched, or every later update fails too.
    if (written) await rm(backportsPath, { force: true });
    onNote(
      `Backports cannot be used, so QEMU comes from ${release.prettyName}: ${firstLine(error)}`,
    );
    return undefined;
  }
}

/**
 * The deb822 source of the backports, at the address of this machine's own main source.
 * @throws command.failed when there is none.
 */
export function backportsSource(targets: readonly AptTarget[], codename: string): string {
  const archives = findDebianArchives(targets, codename);
  if (archives === undefined) {
    throw new TorporError("command.failed", `apt has no source for Debian ${codename} main`);
  }
  return [
    "# Added by Torpor for a newer QEMU. Packages from here are installed only when asked for.",
    "Types: deb",
    `URIs: ${archives.mainUri}`,
    `Suites: ${codename}-backports`,
    "Components: main",
    "Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
    "",
  ].join("\n");
}

async function installNewest(
  names: readonly string[],
  suite: string | undefined,
  onNote: (text: string) => void,
  report: Report,
): Promise<void> {
  if (suite !== undefined) {
    try {
      await install(names, ["--target-release", suite], report);
      return;
    } catch (error) {
      onNote(`QEMU could not be installed from ${suite}: ${firstLine(error)}`);
    }
  }
  await install(names, [], report);
}

async function updateLists(): Promise<void> {
  const deadline = Deadline.after(updateBudgetMs, "apt-get update");
  for (;;) {
    try {
      // Without this option a source that cannot be fetched is only a warning.
      await runCommand(
        ["apt-get", "update", "--quiet", "-o", "APT::Update::Error-Mode=any"],
        deadline,
        { env: aptEnv },
      );
      return;
    } catch (error) {
      // A fresh machine updates its lists by itself, and apt does not wait for that lock.
      if (!TorporError.is(error) || !/Could not get lock/.test(error.rawMessage)) throw error;
      await deadline.sleep(lockRetryMs);
      deadline.check();
    }
  }
}

async function install(
  names: readonly string[],
  choice: readonly string[],
  report: Report,
): Promise<void> {
  await runCommand(
    [
      "apt-get",
      "install",
      "--yes",
      "--quiet",
      "--no-install-recommends",
      ...choice,
      ...["-o", "APT::Status-Fd=1", "-o", "DPkg::Lock::Timeout=600"],
      ...["-o", "Dpkg::Options::=--force-confdef", "-o", "Dpkg::Options::=--force-confold"],
      ...names,
    ],
    Deadline.after(installBudgetMs, "apt-get install"),
    {
      env: aptEnv,
      onLine: (line) => {
        const status = parseAptStatus(line);
        if (status === undefined) return;
        const half = status.phase === "download" ? 0 : 0.5;
        report(half + status.fraction / 2, status.what);
      },
    },
  );
  report(1);
}

function partOf(report: Report, from: number, to: number): Report {
  return (fraction, detail) => report(from + (to - from) * fraction, detail);
}

function firstLine(error: unknown): string {
  const text = TorporError.is(error) ? error.rawMessage : String(error);
  return text.split("\n").find((line) => /^E:/.test(line)) ?? text.split("\n")[0] ?? text;
}
