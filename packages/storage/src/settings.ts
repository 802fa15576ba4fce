/**
 * Every environment variable that Torpor reads, in one table: its possible values, its default and
 * its meaning. A test compares README.md's list with it.
 *
 * The command line and the daemon refuse a name that is not in the table and a value that the table
 * does not allow, so that no setting is ignored in silence.
 */
import { isIP } from "node:net";
import { isAbsolute, resolve } from "node:path";
import {
  TorporError,
  nearestName,
  parseIntegerText,
  parseOneOf,
  readBudgetFactor,
} from "@torpor/std";
import { defaultKeyFile } from "./folders.ts";

/** The environment of a process, or a part of it. */
export type Environment = Readonly<Record<string, string | undefined>>;

interface Setting<T> {
  /** @throws argument.invalid with the name */
  readonly parse: (text: string, name: string) => T;
  /** The text that means the same as leaving the variable out; undefined if there is none. */
  readonly default?: string | undefined;
  /** README.md's text for the default, where it is not just that value. */
  readonly shownDefault?: string;
  /** README.md's description: a cell of its table. */
  readonly meaning?: string;
  /**
   * The part that reads it: a daemon, from its start on; set-up; the commands, to find the daemon;
   * the tests; programs in a guest, where the names are taken too.
   */
  readonly reader: "daemon" | "setUp" | "command" | "tests" | "guest";
}

const prefix = "TORPOR_";
const portMax = 65_535;
const drainMsMax = 60_000;
/** LIMIT: the largest user id that Node takes. */
const userIdMax = 2 ** 31 - 1;
/** LIMIT: ten years; more is "never". */
const timeoutHoursMax = 10 * 365 * 24;
const requestsLimit = 100_000_000;
const spareCountMax = 100;
/** Matches labels of letters, digits and hyphens, with dots between them. */
const hostNamePattern = /^(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)*[a-z0-9](?:[a-z0-9-]*[a-z0-9])?$/i;
const isRoot = process.getuid?.() === 0;

const table = {
  TORPOR_HOME: {
    parse: parsePath,
    shownDefault: "`/var/lib/torpor`; without root `~/.local/share/torpor`",
    meaning: "sandboxes, database, socket and log",
    reader: "command",
  },
  TORPOR_CACHE: {
    parse: parsePath,
    shownDefault: "`/var/cache/torpor`; without root `~/.cache/torpor` if it is there",
    meaning: "guest system and templates; can be built anew",
    reader: "daemon",
  },
  TORPOR_KEY_FILE: {
    parse: parsePath,
    default: defaultKeyFile({}),
    shownDefault: "`/etc/torpor/sealing.key`; without root `~/.config/torpor/sealing.key`",
    meaning: "seals the secrets in `TORPOR_HOME`; made when it is not there",
    reader: "daemon",
  },
  TORPOR_PORT: {
    parse: wholeNumber(portMax),
    default: "7330",
    meaning: "the daemon's port on 127.0.0.1",
    reader: "daemon",
  },
  TORPOR_NETWORK: {
    parse: word("namespace", "user"),
    default: isRoot ? "namespace" : "user",
    shownDefault: "`namespace` as root, else `user`",
    meaning: "`user`: QEMU's own network, closed",
    reader: "daemon",
  },
  TORPOR_VMM: {
    parse: word("qemu", "firecracker"),
    default: "qemu",
    meaning: "`firecracker`: what `up` makes its template with; see below",
    reader: "setUp",
  },
  TORPOR_PAGER: {
    parse: word("auto", "always", "never"),
    default: "auto",
    meaning: "under Firecracker, memory page by page: `always`, `never`",
    reader: "daemon",
  },
  TORPOR_PREFETCH: {
    parse: word("off", "workingSet", "all"),
    default: "workingSet",
    meaning: "what a pager fetches ahead: that, `all` or nothing (`off`)",
    reader: "daemon",
  },
  TORPOR_SPARES: {
    parse: wholeNumber(spareCountMax),
    default: "1",
    meaning: "sandboxes of each template kept ready",
    reader: "daemon",
  },
  TORPOR_ON_STOP: {
    parse: word("leave", "pause"),
    default: "leave",
    meaning: "what SIGTERM to the daemon does to sandboxes: `leave` or `pause`",
    reader: "daemon",
  },
  TORPOR_SAVE: {
    parse: word("layers", "whole"),
    default: "layers",
    meaning: "`whole`: save all memory by QEMU's own means",
    reader: "daemon",
  },
  TORPOR_DOMAIN: {
    parse: parseHostName,
    default: "localhost",
    meaning: "sandboxes have host names below it: `<port>-<id>.<domain>`",
    reader: "daemon",
  },
  TORPOR_TLS_CERT: {
    parse: parsePath,
    shownDefault: "none",
    meaning: "PEM file of a certificate; serve over TLS too",
    reader: "daemon",
  },
  TORPOR_TLS_KEY: {
    parse: parsePath,
    shownDefault: "none",
    meaning: "PEM file of its key",
    reader: "daemon",
  },
  TORPOR_TLS_PORT: {
    parse: wholeNumber(portMax),
    default: "7443",
    meaning: "the port for TLS",
    reader: "daemon",
  },
  TORPOR_TLS_ADDRESS: {
    parse: parseAddress,
    default: "127.0.0.1",
    meaning: "the address for TLS; `0.0.0.0`: all",
    reader: "daemon",
  },
  TORPOR_DRAIN_MS: {
    parse: wholeNumber(drainMsMax),
    default: "2000",
    meaning: "how long requests in flight have to end before a pause",
    reader: "daemon",
  },
  TORPOR_TIMEOUT_HOURS_MAX: {
    parse: wholeNumber(timeoutHoursMax),
    default: "720",
    meaning: "the longest timeout, from the start of a run",
    reader: "daemon",
  },
  TORPOR_REQUESTS_MAX: {
    parse: wholeNumber(requestsLimit),
    default: "20000",
    meaning: "requests of one API key in 30 s; `0`: any number",
    reader: "daemon",
  },
  TORPOR_USER_IDS: {
    parse: parseUserIds,
    default: "1900000000-1900009999",
    meaning: "as root: users for the processes of VMs, one each",
    reader: "daemon",
  },
  TORPOR_BUDGET_FACTOR: { parse: readBudgetFactor, default: "1", reader: "tests" },
  TORPOR_MODEL_SEED: { parse: wholeNumber(Number.MAX_SAFE_INTEGER), reader: "tests" },
  TORPOR_MODEL_SEEDS: { parse: wholeNumber(Number.MAX_SAFE_INTEGER), reader: "tests" },
  TORPOR_FUZZ_INPUTS: { parse: wholeNumber(Number.MAX_SAFE_INTEGER), reader: "tests" },
  TORPOR_FUZZ_SEED: { parse: wholeNumber(Number.MAX_SAFE_INTEGER), reader: "tests" },
  TORPOR_BENCH_OTHER: { parse: parsePath, reader: "tests" },
  TORPOR_STRIPPED: { parse: parsePath, reader: "tests" },
  TORPOR_AGENT_ADDRESS: { parse: String, reader: "guest" },
  TORPOR_AGENT_PORT: { parse: String, reader: "guest" },
  TORPOR_AGENT_USER_CGROUP: { parse: String, reader: "guest" },
  TORPOR_GENERATION_FILE: { parse: String, reader: "guest" },
  TORPOR_HOOK: { parse: String, reader: "guest" },
  TORPOR_REASON: { parse: String, reader: "guest" },
  TORPOR_SANDBOX_ID: { parse: String, reader: "guest" },
  TORPOR_GENERATION: { parse: String, reader: "guest" },
  TORPOR_SUSPENDED_MS: { parse: String, reader: "guest" },
} as const satisfies Readonly<Record<string, Setting<unknown>>>;

/** The name of a variable in the table. */
export type SettingName = keyof typeof table;
/** The type of a variable's parsed value. */
export type SettingValue<N extends SettingName> = ReturnType<(typeof table)[N]["parse"]>;

/** The table, for documentation and for loops over all of it. */
export const settings: Readonly<Record<SettingName, Setting<unknown>>> = table;
/** The names in the table, in its order. */
export const settingNames = Object.keys(table) as readonly SettingName[];

/** Reads and checks a variable; undefined where it is not set. @throws argument.invalid */
export function readSetting<N extends SettingName>(
  env: Environment,
  name: N,
): SettingValue<N> | undefined {
  const text = env[name];
  if (text === undefined) return undefined;
  if (text === "") throw wrong(name, "is empty", `Give ${name} a value, or \`unset ${name}\`.`);
  return table[name].parse(text, name) as SettingValue<N>;
}

/**
 * Checks every variable with Torpor's prefix. @throws argument.invalid for an unknown name and for
 * an invalid value
 */
export function checkSettings(env: Environment): void {
  for (const name of Object.keys(env)) {
    if (!name.startsWith(prefix) || env[name] === undefined) continue;
    if (isSettingName(name)) readSetting(env, name);
    else throw unknownName(name);
  }
}

/** Selects the settings that a daemon was given, as text; none of them is secret. */
export function daemonSettings(env: Environment): Readonly<Record<string, string>> {
  const told = settingNames.flatMap((name) => {
    const text = env[name];
    return text === undefined || settings[name].reader !== "daemon" ? [] : [[name, text] as const];
  });
  return Object.fromEntries(told);
}

/** A setting that two environments disagree on. */
export interface Difference {
  readonly name: SettingName;
  /** As set, or its default where it is not set; undefined if it has neither. */
  readonly here: string | undefined;
  readonly there: string | undefined;
}

/**
 * Lists the daemon settings in which `env` differs from a running daemon.
 * @param there `daemonSettings` of the running daemon's environment.
 * @param alsoUnset Includes what is not set in `env` but is set there.
 */
export function differingSettings(
  env: Environment,
  there: Environment,
  alsoUnset: boolean,
): readonly Difference[] {
  return settingNames.flatMap((name) => {
    const setting = settings[name];
    if (setting.reader !== "daemon" || (env[name] === undefined && !alsoUnset)) return [];
    const texts = [env, there].map((one) => one[name] ?? setting.default);
    const [mine, daemons] = texts.map((text) =>
      text === undefined ? undefined : JSON.stringify(setting.parse(text, name)),
    );
    return mine === daemons ? [] : [{ name, here: texts[0], there: texts[1] }];
  });
}

function isSettingName(name: string): name is SettingName {
  return Object.hasOwn(table, name);
}

function unknownName(name: string): TorporError {
  const known = settingNames.filter((one) => settings[one].meaning !== undefined);
  // All names share a prefix, which makes none nearer.
  const ends = known.map((one) => one.slice(prefix.length));
  const nearest = nearestName(name.slice(prefix.length), ends);
  const advice =
    nearest === undefined ? "README.md lists those that are." : `Write ${prefix}${nearest}.`;
  return wrong(name, "is no setting", `${advice} \`unset ${name}\` takes it away.`);
}

function wholeNumber(max: number): (text: string, name: string) => number {
  return (text, name) => parseIntegerText(text, name, 0, max);
}

function word<T extends string>(...words: readonly T[]): (text: string, name: string) => T {
  return (text, name) => parseOneOf(text, name, words);
}

/** The daemon and its callers have different working folders. */
function parsePath(text: string, name: string): string {
  if (isAbsolute(text)) return resolve(text);
  const problem = `must be an absolute path, not "${text}"`;
  throw wrong(name, problem, `Write ${name}=${resolve(text)}.`);
}

function parseHostName(text: string, name: string): string {
  if (hostNamePattern.test(text)) return text.toLowerCase();
  throw wrong(name, "must be a host name", `Write labels with dots between, without a port.`);
}

function parseAddress(text: string, name: string): string {
  if (isIP(text) !== 0 || hostNamePattern.test(text)) return text;
  throw wrong(name, "must be an address of this machine", `Write 0.0.0.0 for all.`);
}

/** Parses "FIRST-LAST", both included: users of no account, for one VM process each. */
function parseUserIds(text: string, name: string): { first: number; count: number } {
  const [, from, to] = /^(\d+)-(\d+)$/.exec(text) ?? [];
  const first = parseIntegerText(from, name, 1, userIdMax);
  const last = parseIntegerText(to, name, first, userIdMax);
  return { first, count: last - first + 1 };
}

function wrong(name: string, problem: string, advice: string): TorporError {
  return new TorporError("argument.invalid", `${name} ${problem}`, { advice });
}
