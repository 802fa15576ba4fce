/**
 * Queries apt: where this machine gets its packages from, and how far a run of apt is.
 *
 * This repository names no mirror: every address comes from the machine's own sources, so that a
 * mirror, a proxy or an archive that an administrator chose is used here too.
 */
import { access, readFile } from "node:fs/promises";
import { type Deadline, TorporError, runCommand } from "@torpor/std";

/** The environment of every apt: its messages are parsed, and it must never stop to ask. */
export const aptEnv: Readonly<Record<string, string>> = {
  LC_ALL: "C",
  DEBIAN_FRONTEND: "noninteractive",
  NEEDRESTART_MODE: "l",
};

/**
 * The path of the Debian keys on every Debian machine; sources name it so that no other key counts.
 */
const keyringPath = "/usr/share/keyrings/debian-archive-keyring.gpg";

/** One index that apt would fetch, as `apt-get indextargets` prints it. */
export interface AptTarget {
  readonly uri: string;
  /** The suite as the source names it: "bookworm", "bookworm-security", "stable". */
  readonly suite: string;
  /** The codename that the suite stands for; empty before the first update. */
  readonly codename: string;
  readonly component: string;
  /** The archive's name for itself, such as "Debian"; empty before the first update. */
  readonly origin: string;
}

/** Addresses of the two Debian archives. */
export interface DebianArchives {
  readonly mainUri: string;
  /** Undefined when the machine has no source for security updates. */
  readonly securityUri: string | undefined;
}

const targetFormat = "$(REPO_URI)|$(RELEASE)|$(CODENAME)|$(COMPONENT)|$(ORIGIN)";

/** Lists all indexes of this machine's sources. Works before the first `apt-get update` too. */
export async function listAptTargets(deadline: Deadline): Promise<readonly AptTarget[]> {
  const list = async (option: readonly string[]): Promise<readonly AptTarget[]> => {
    const { stdout } = await runCommand(
      ["apt-get", "indextargets", ...option, "--format", targetFormat, "Created-By: Packages"],
      deadline,
      { env: aptEnv },
    );
    return parseAptTargets(stdout);
  };
  // A fetched index names its origin; for the others only address and suite are known.
  const fetched = await list([]);
  return fetched.length > 0 ? fetched : list(["--no-release-info"]);
}

/**
 * Parses the lines of `apt-get indextargets` in our format; lines without an address are left out.
 */
export function parseAptTargets(text: string): readonly AptTarget[] {
  return text.split("\n").flatMap((line) => {
    const [uri = "", suite = "", codename = "", component = "", origin = ""] = line.split("|");
    if (uri === "" || component === "") return [];
    // apt leaves a field that it does not know yet as the format has it.
    const known = (field: string): string => (field.startsWith("$(") ? "" : field);
    return [{ uri, suite, codename: known(codename), component, origin: known(origin) }];
  });
}

/** Picks the main and the security archive among the sources of a machine of this release. */
export function findDebianArchives(
  targets: readonly AptTarget[],
  codename: string,
): DebianArchives | undefined {
  const usable = targets.filter(
    (target) =>
      target.component === "main" &&
      (target.origin === "" || target.origin === "Debian") &&
      !/^(cdrom|file|copy):/.test(target.uri),
  );
  const is = (target: AptTarget, kind: "" | "-security"): boolean =>
    target.codename === `${codename}${kind}` ||
    new RegExp(`^(${codename}|stable|oldstable)${kind === "" ? "" : "(-security|/updates)"}$`).test(
      target.suite,
    );
  const mains = usable.filter((target) => is(target, ""));
  // Other archives publish under Debian's suite names too, but never its updates.
  const main =
    mains.find(({ uri }) => usable.some((one) => one.uri === uri && /-updates$/.test(one.suite))) ??
    mains[0];
  if (main === undefined) return undefined;
  return { mainUri: main.uri, securityUri: usable.find((target) => is(target, "-security"))?.uri };
}

/**
 * Finds the archives of this machine, with lists of mirrors resolved to their first entry.
 * @throws command.failed when no Debian source is configured.
 */
export async function loadDebianArchives(deadline: Deadline): Promise<DebianArchives> {
  const { codename } = await loadOsRelease();
  const archives = findDebianArchives(await listAptTargets(deadline), codename);
  if (archives === undefined) {
    throw new TorporError("command.failed", `apt has no source for Debian ${codename} main`, {
      effect: "none",
      advice: "Add the Debian archive to /etc/apt/sources.list.d, then run the same command again.",
    });
  }
  const { mainUri, securityUri } = archives;
  return {
    mainUri: await resolveMirrorList(mainUri),
    securityUri: securityUri === undefined ? undefined : await resolveMirrorList(securityUri),
  };
}

/** Debian's cloud images use `mirror+file:/etc/apt/mirrors/…`: a file with one address a line. */
async function resolveMirrorList(uri: string): Promise<string> {
  const path = /^mirror\+file:(?:\/\/)?(\/.*?)\/?$/.exec(uri)?.[1];
  if (path === undefined) return uri;
  const first = /^\s*([a-z][^\s#]*)/m.exec(await readFile(path, "utf8"))?.[1];
  return first ?? uri;
}

/**
 * The `deb` lines for a release: the release, its updates and its security updates, and its other
 * suites that are asked for.
 */
export async function guestSourceLines(
  archives: DebianArchives,
  release: string,
  otherSuites: readonly string[] = [],
): Promise<readonly string[]> {
  const keyed = await access(keyringPath).then(
    () => `deb [signed-by=${keyringPath}]`,
    () => "deb",
  );
  const { mainUri, securityUri } = archives;
  return [
    `${keyed} ${mainUri} ${release} main`,
    `${keyed} ${mainUri} ${release}-updates main`,
    ...otherSuites.map((suite) => `${keyed} ${mainUri} ${suite} main`),
    ...(securityUri === undefined ? [] : [`${keyed} ${securityUri} ${release}-security main`]),
  ];
}

/**
 * Proxy and validity settings of this machine's apt, as `-o` values for an apt that does not read
 * its configuration.
 */
export async function inheritedAptOptions(deadline: Deadline): Promise<readonly string[]> {
  const { stdout } = await runCommand(["apt-config", "dump", "Acquire"], deadline, { env: aptEnv });
  return parseInheritedOptions(stdout);
}

/** Selects those settings from the output of `apt-config dump`. */
export function parseInheritedOptions(dump: string): readonly string[] {
  const kept = /^Acquire::(https?::(proxy|verify|ca)|check-valid-until|check-date|retries)/i;
  return dump.split("\n").flatMap((line) => {
    const [, name, value] = /^(\S+) "(.*)";$/.exec(line) ?? [];
    if (name === undefined || value === undefined || value === "") return [];
    return kept.test(name) ? [`${name}=${value}`] : [];
  });
}

/** Fields of /etc/os-release; texts are empty where it says nothing. */
export interface OsRelease {
  readonly id: string;
  readonly codename: string;
  /** 12 for Debian 12; 0 when it is not a number (testing). */
  readonly version: number;
  readonly prettyName: string;
}

/** Reads this machine's release; a missing file gives empty fields. */
export async function loadOsRelease(path = "/etc/os-release"): Promise<OsRelease> {
  return parseOsRelease(await readFile(path, "utf8").catch(() => ""));
}

/** Parses the text of an os-release file. */
export function parseOsRelease(text: string): OsRelease {
  const field = (name: string): string =>
    new RegExp(`^${name}="?([^"\\n]*)"?$`, "m").exec(text)?.[1] ?? "";
  return {
    id: field("ID"),
    codename: field("VERSION_CODENAME"),
    version: Number.parseInt(field("VERSION_ID"), 10) || 0,
    prettyName: field("PRETTY_NAME") || "an unknown system",
  };
}

/** How far apt is, as it reports on its status descriptor. */
export interface AptStatus {
  readonly phase: "download" | "install";
  /** From 0 to 1 within the phase. */
  readonly fraction: number;
  readonly what: string;
}

/** Reads one line of `APT::Status-Fd`; undefined for any other line. */
export function parseAptStatus(line: string): AptStatus | undefined {
  const [, kind, what = "", percent = "0", text = ""] =
    /^(dlstatus|pmstatus):([^:]*(?::[a-z0-9]+)?):([0-9.]+):(.*)$/.exec(line) ?? [];
  if (kind === undefined) return undefined;
  const fraction = Math.min(1, Number(percent) / 100);
  if (kind === "pmstatus") return { phase: "install", fraction, what: what.replace(/:.*$/, "") };
  return { phase: "download", fraction, what: text.replace(/^Retrieving file /, "file ") };
}
